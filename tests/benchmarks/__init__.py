"""Measurements, which are no tests: their results stand in the documents that they are quoted in."""
