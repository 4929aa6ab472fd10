"""Large bodies by shared memory, behind their answers: a child that feeds a pipe keeps its GPU waiting.

The child answers first, and writes the body into a folder that its host has made for it while it works on its next task
already. Nothing that a child says is believed: the file must be a plain one, in that folder, of the size that was said.
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
    def of(cls, result: Any, data: bytes, folder: str | None) -> Body:
        """The body that the result of a BODY names; the one that came along where it names none. Its file is removed.

        Raises ProtocolError where the child has named what can't be one.
        """
        if not isinstance(result, dict) or result.get("body_file") is None:
            return cls(data)
        if folder is None:
            raise ProtocolError("a body's file where there is no folder for one")
        name, size = result["body_file"], result.get("body_bytes")
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
