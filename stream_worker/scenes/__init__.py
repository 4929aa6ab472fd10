"""Rendered rooms with exact masks: what our own detector learns from, and the photos of demo and tests."""
