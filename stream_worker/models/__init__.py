"""Models and the isolated child processes that they live in."""
