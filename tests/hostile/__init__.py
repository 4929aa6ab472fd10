"""Hostile input through the real detector on a real Kafka, in a network of its own where listeners wait for it."""
