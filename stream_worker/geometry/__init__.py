"""Masks, pointmaps, Gaussians and volumes: plain arrays in, plain arrays out."""
