"""Turns streams of photos into 3D objects, on Kafka."""
