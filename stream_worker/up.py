"""The whole service on one host: broker if none is named, topics, and a worker per GPU."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stream_worker import topics
from stream_worker.errors import Exit, UserError
from stream_worker.local_default import started
from stream_worker.settings import ENV_PREFIX, Settings
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
    """Start the service, wait until every worker is ready, and stop all of it at the end.

    Raises UserError where it runs already with this data folder, or can't be started.
    """
    with _alone(settings.local.data_dir) as folder:
        settings = settings.model_copy(update={"local": settings.local.model_copy(update={"data_dir": folder})})
        async with _running(settings, on_progress, log_dir) as service:
            yield service


@asynccontextmanager
async def _running(
    settings: Settings, on_progress: Callable[[str], None], log_dir: Path | None
) -> AsyncIterator[Running]:
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


@contextmanager
def _alone(data_dir: Path) -> Iterator[Path]:
    """Hold the data folder: workers of two services of one folder would have the same names, and evict each other."""
    folder = data_dir.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "up.lock").open("w")
    except OSError as error:
        raise UserError(f"{folder} can't be written to (local.data_dir): {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"the service runs already with {folder}: stop it first, or set local.data_dir", Exit.FAILED
            ) from None
        yield folder


def plan(settings: Settings, cards: list[str]) -> list[Worker]:
    """Which workers to start: a detector and a reconstructor per GPU, or as many as `up` says, and aggregators.

    Several workers share the cards in turn. `cards` are GPU UUIDs; none means CPU. Where `metrics.port` is set, the
    workers' own ports count on from it, in the order of this plan.
    """
    per_card = max(1, len(cards))
    counts = {
        "detector": per_card if settings.up.detectors is None else settings.up.detectors,
        "reconstructor": per_card if settings.up.reconstructors is None else settings.up.reconstructors,
        "aggregator": settings.up.aggregators,
    }
    commands = {"detector": "detect", "reconstructor": "reconstruct", "aggregator": "aggregate"}
    workers = [
        Worker(
            name=f"{group}-{number}",
            command=[commands[group], "--name", f"{group}-{number}"],
            env={"CUDA_VISIBLE_DEVICES": cards[number % len(cards)]} if cards and group != "aggregator" else {},
        )
        for group, count in counts.items()
        for number in range(count)
    ]
    if settings.metrics.port is None:
        return workers
    return [
        replace(worker, env={**worker.env, f"{ENV_PREFIX}METRICS__PORT": str(settings.metrics.port + place)})
        for place, worker in enumerate(workers)
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
