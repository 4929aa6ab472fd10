"""SAM 3D Objects on a GPU, with upstream's real modules: `upstream.py` says what they need."""
