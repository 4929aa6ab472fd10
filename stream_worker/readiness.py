"""How a worker tells its supervisor that it is ready, or why it can't be: systemd's notify protocol.

A supervisor (ours, or systemd itself) names a datagram socket in NOTIFY_SOCKET; lines such as `READY=1` and
`STATUS=...` go there (sd_notify(3)).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

VARIABLE = "NOTIFY_SOCKET"


def notify(*, ready: bool = False, status: str | None = None) -> None:
    """Tell the supervisor, if there is one. Never fails: a supervisor that is gone needs no news."""
    address = os.environ.get(VARIABLE)
    if not address:
        return
    lines = (["READY=1"] if ready else []) + ([f"STATUS={status}"] if status else [])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return


class Listener(asyncio.DatagramProtocol):
    """The supervisor's end: one socket for one worker."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self.status = ""
        self._on_ready = on_ready

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Take note of what the worker says."""
        for line in data.decode("utf-8", "replace").splitlines():
            if line == "READY=1":
                self._on_ready()
            elif line.startswith("STATUS="):
                self.status = line.removeprefix("STATUS=")


async def listen(path: Path, on_ready: Callable[[], None]) -> tuple[asyncio.DatagramTransport, Listener]:
    """Open the socket at `path` (at most 107 bytes, as all such sockets)."""
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(lambda: Listener(on_ready), local_addr=str(path), family=socket.AF_UNIX)
