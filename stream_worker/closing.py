"""Letting go of what may not want to be let go of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from stream_worker import telemetry

log = telemetry.get(__name__)

NAG_S = 0.5


async def close_within(seconds: float, closing: Coroutine[Any, Any, object]) -> bool:
    """Run a `stop()` or `close()`; False where it had not returned in time, or failed. Never raises its errors.

    In a task of its own: aiokafka's `stop` swallows a CancelledError that was meant for its caller, and with it
    a time limit or a shutdown.
    """
    task = asyncio.ensure_future(closing)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
    if not done:
        return False
    error = task.exception() if not task.cancelled() else None
    if error is not None:
        log.debug("did not close cleanly", error=repr(error))
    return error is None


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended, however often it swallows that."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=NAG_S)
