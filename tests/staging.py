"""A stage in this process, for as long as a test needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stream_worker.records import Group
from stream_worker.settings import Settings
from stream_worker.stage import Stage

JOIN_S = 60.0
END_S = 60.0


@asynccontextmanager
async def running(group: Group, settings: Settings) -> AsyncIterator[Stage]:
    """A stage that has joined its group; leaving the context drains it, and raises what it ended with."""
    joined = asyncio.Event()
    stage = Stage(group, settings, ready=joined.set)
    task = asyncio.create_task(stage.run())
    waiting = asyncio.create_task(joined.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=JOIN_S)
        assert joined.is_set(), task
        yield stage
    finally:
        waiting.cancel()
        stage.stop()
        await asyncio.wait_for(task, END_S)
