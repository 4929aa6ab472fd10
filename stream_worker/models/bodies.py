"""Large answers by shared memory: a child that feeds a pipe keeps its GPU waiting for whoever empties it.

The child writes the body into a folder that its host has made for it, and its answer names the file. The host opens
that at once, and reads it when the child has its next task already. Nothing that a child says is believed: the file
must be a plain one, in that folder, of the size that was said.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from typing import Any

from stream_worker.models.protocol import MAX_BODY_BYTES, ProtocolError

_NAME = re.compile(r"[0-9]{1,20}")


class Body:
    """The bytes of an answer: here already, or in a file that is open."""

    def __init__(self, data: bytes = b"", fd: int | None = None, size: int = 0) -> None:
        self._data = data
        self._fd = fd
        self._size = size

    @classmethod
    def of(cls, header: dict[str, Any], data: bytes, folder: str) -> Body:
        """The body that an answer names; the one that came with it where it names none. Its file is taken away.

        Raises ProtocolError where the child has named what can't be one.
        """
        name = header.get("body_file")
        if name is None:
            return cls(data)
        size = header.get("body_bytes")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or type(size) is not int:
            raise ProtocolError("a body's file without a name and a size")
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ProtocolError(f"a body's file that can't be opened: {error.strerror}") from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not 0 <= found.st_size == size <= MAX_BODY_BYTES:
            os.close(fd)
            raise ProtocolError(f"a body's file of {found.st_size} bytes, said to have {size}")
        os.unlink(path)
        return cls(fd=fd, size=size)

    async def read(self) -> bytes:
        """The bytes. Raises ProtocolError where the child has cut them short meanwhile."""
        if self._fd is None:
            return self._data
        fd, self._fd = self._fd, None
        return await asyncio.to_thread(_read, fd, self._size)

    def close(self) -> None:
        """Let go of what will not be read."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _read(fd: int, size: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        data = file.read(size)
    if len(data) != size:
        raise ProtocolError("a body's file that was cut short")
    return data
