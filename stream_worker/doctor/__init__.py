"""`stream-worker doctor`: what a worker of this machine would meet, looked at before one is started."""
