"""A rebalance storm: a member that joins a group and leaves it again, over and over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from stream_worker.records import Group
from stream_worker.settings import Settings
from stream_worker.stage import Stage
from tests.staging import running

EVERY_S = 3.0


async def storm(member: Callable[[], Group], settings: Settings, over: asyncio.Event, every_s: float = EVERY_S) -> int:
    """Join or leave every `every_s` seconds until it is `over`; how often it joined.

    A join that takes longer than that, because the others have to let go first, is followed by its leave at once.
    """
    loop = asyncio.get_running_loop()
    joins, moment = 0, loop.time()

    async def wait() -> None:
        nonlocal moment
        moment = max(moment + every_s, loop.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(moment):
                await over.wait()

    while not over.is_set():
        async with running(member(), settings):
            joins += 1
            await wait()
        await wait()
    return joins


def generation(stage: Stage) -> int:
    """How many rebalances the stage's group has had, as its coordinator counts them."""
    return int(stage._consumer._coordinator.generation)
