"""`stream-worker demo`: photos in, completed 3D results and a report out, on the real service."""
