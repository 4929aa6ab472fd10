"""Who may work at the same time: everybody together, or one record alone in the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turnstile:
    """`shared` lets any number in, `alone` waits for them to leave and keeps new ones out."""

    def __init__(self) -> None:
        self._inside = 0
        self._hermits = 0
        self._closed = False
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Work beside others; whoever wants to be alone goes first. Waits for nobody where nobody wants that."""
        await self._until(lambda: not (self._closed or self._hermits))
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._tell()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Work with nobody beside."""
        self._hermits += 1
        try:
            await self._until(lambda: not (self._closed or self._inside))
            self._closed = True
        finally:
            self._hermits -= 1
            self._tell()
        try:
            yield
        finally:
            self._closed = False
            self._tell()

    async def _until(self, free: Callable[[], bool]) -> None:
        while not free():
            await self._changed.wait()

    def _tell(self) -> None:
        """Without an await: one who is cancelled on the way out must wake the others all the same."""
        self._changed.set()
        self._changed = asyncio.Event()
