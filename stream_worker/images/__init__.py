"""Untrusted input: fetching photos from outside and turning their bytes into pixels."""
