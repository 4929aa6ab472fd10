"""A stage, or the whole service with stub models, in this process, for as long as a test needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from stream_worker.aggregator.service import Aggregator
from stream_worker.detector import Detector
from stream_worker.reconstructor import Reconstructor
from stream_worker.records import Group
from stream_worker.settings import Detector as DetectorSettings
from stream_worker.settings import Images, Kafka, Local, Settings
from stream_worker.settings import Reconstructor as ReconstructorSettings
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


def with_stubs(kafka: str, prefix: str, folder: Path, base: str) -> Settings:
    """Settings of a service with stub models, whose photos come from the server at `base` on loopback."""
    return Settings(
        kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=2),
        local=Local(data_dir=folder),
        images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
        detector=DetectorSettings(model="tests.stubs:Counted", threads=1),
        reconstructor=ReconstructorSettings(model="tests.stubs:Dots", threads=1),
    )


@asynccontextmanager
async def whole(settings: Settings) -> AsyncIterator[None]:
    """A worker of each group, named d-0, r-0 and a-0."""
    async with AsyncExitStack() as stack:
        for group in (Detector(settings, "d-0"), Reconstructor(settings, "r-0"), Aggregator(settings, "a-0")):
            await stack.enter_async_context(running(group, settings))
        yield
