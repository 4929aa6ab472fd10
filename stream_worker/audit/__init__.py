"""The audit: whether what the topics and the object store hold keeps the guarantees (`stream-worker audit`)."""
