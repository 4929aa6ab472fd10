"""`python -m stream_worker`: the same as the command `stream-worker`."""

from stream_worker.cli import main

main()
