"""The join of an image's manifest and its results into one completed event."""
