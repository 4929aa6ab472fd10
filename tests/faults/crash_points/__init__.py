"""Workers that die, or stop, at a step of their work that a test names; the product has no hooks of its own."""
