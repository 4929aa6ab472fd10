"""The whole service on one host: broker if none is named, topics, and a worker per GPU."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from stream_worker import topics
from stream_worker.local_default import started
from stream_worker.settings import Settings
from stream_worker.supervisor import Supervisor, Worker

READY_S = 60.0
"""Beyond the models' own load limits: joining the groups."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service that runs: its settings, with the broker filled in, and its supervisor."""

    settings: Settings
    supervisor: Supervisor


@asynccontextmanager
async def running(
    settings: Settings, *, on_progress: Callable[[str], None], log_dir: Path | None = None
) -> AsyncIterator[Running]:
    """Start the service, wait until every worker is ready, and stop all of it at the end."""
    async with started(settings, on_progress) as connected:
        created = await topics.create(connected.kafka)
        if created:
            on_progress(f"created topics: {', '.join(created)}")
        await topics.require(connected.kafka)
        workers = plan(connected, await gpus())
        on_progress(f"starting {', '.join(worker.name for worker in workers)}")
        async with Supervisor(connected, workers, log_dir) as supervisor:
            loading = max(connected.detector.load_timeout_s, connected.reconstructor.load_timeout_s)
            await supervisor.ready(loading + READY_S)
            on_progress("ready")
            yield Running(connected, supervisor)


def plan(settings: Settings, cards: list[str]) -> list[Worker]:
    """Which workers to start: a detector and a reconstructor per GPU, or as many as `up` says, and aggregators.

    Several workers share the cards in turn. `cards` are GPU UUIDs; none means CPU.
    """
    per_card = max(1, len(cards))
    counts = {
        "detector": per_card if settings.up.detectors is None else settings.up.detectors,
        "reconstructor": per_card if settings.up.reconstructors is None else settings.up.reconstructors,
        "aggregator": settings.up.aggregators,
    }
    commands = {"detector": "detect", "reconstructor": "reconstruct", "aggregator": "aggregate"}
    return [
        Worker(
            name=f"{group}-{number}",
            command=[commands[group], "--name", f"{group}-{number}"],
            env={"CUDA_VISIBLE_DEVICES": cards[number % len(cards)]} if cards and group != "aggregator" else {},
        )
        for group, count in counts.items()
        for number in range(count)
    ]


async def gpus() -> list[str]:
    """UUIDs of the host's NVIDIA GPUs; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    process = await asyncio.create_subprocess_exec(
        tool,
        "--query-gpu=uuid",
        "--format=csv,noheader",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(30):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        return []
    return said.decode().split() if process.returncode == 0 else []
