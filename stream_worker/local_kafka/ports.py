"""Ports of the loopback interface for servers that we start."""

from __future__ import annotations

import random
import socket

from stream_worker.errors import Exit, UserError

HOST = "127.0.0.1"


def free_port(but: int | None = None) -> int:
    """A port of the loopback interface that nothing listens on.

    From below the range that the kernel takes for outgoing connections: a client that tries to connect to such
    a port before the broker listens can be given that very port, and then the broker can't have it.
    """
    for _ in range(200):
        port = random.randrange(20_000, 32_000)  # noqa: S311 (no secret)
        if port != but and is_free(port):
            return port
    raise UserError("no free port between 20000 and 32000", Exit.PORT)


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the JVM does
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True
