"""What holds the guarantees up, and that a test notices when it is taken away."""
