"""The whole service on one host: broker if none is named, topics, and a worker per GPU."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stream_worker import topics
from stream_worker.errors import Exit, UserError
from stream_worker.local_default import started
from stream_worker.settings import ENV_PREFIX, SAM3D, Settings
from stream_worker.supervisor import Supervisor, Worker

READY_S = 60.0
"""Beyond the models' own load limits: joining the groups."""


SAM3D_MB, SAM3D_MESH_MB = 16_000, 36_000
"""GPU memory that one SAM 3D Objects needs, its context included, without and with meshes: 11.9 and 32.1 GB at its peak
(tests/gpu/RESULTS.md)."""
CONTEXT_MB = 1_000
"""Of each process on a card, beside its model's budget: CUDA's context and its kernels."""
DETECTOR_MB = 3_000
"""Left to each detector beside reconstructors that share a card."""
LEAST_SHARE_MB = 1_000
"""With less none would work anyway: then they are left to fight for it."""
MOST_A_CARD = 4
"""That many shared a GPU best where it was measured; a fifth would only wait."""
CORES_EACH = 3
"""A model starts its kernels from one core; its service and its libraries want the others."""


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU."""

    uuid: str
    memory_mb: int


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


def plan(settings: Settings, cards: list[Card], cores: int | None = None) -> list[Worker]:
    """Which workers to start: a detector and a reconstructor per GPU, or as many as `up` says, and aggregators.

    Of SAM 3D Objects several share a card, as many as its memory and the `cores` (of this host, unless given) allow.
    Reconstructors that share one each have an equal part of its memory, so that none starves another.
    Workers take the cards in turn; no cards means CPU. Where `metrics.port` is set, the workers' own ports count on
    from it, in the order of this plan.
    """
    each = 1 if settings.reconstructor.model != SAM3D else _sharing(settings, cards, cores or os.cpu_count() or 1)
    counts = {
        "detector": max(1, len(cards)) if settings.up.detectors is None else settings.up.detectors,
        "reconstructor": (
            each * max(1, len(cards)) if settings.up.reconstructors is None else settings.up.reconstructors
        ),
        "aggregator": settings.up.aggregators,
    }
    commands = {"detector": "detect", "reconstructor": "reconstruct", "aggregator": "aggregate"}
    share = _share(settings, cards, counts)
    workers = [
        Worker(
            name=f"{group}-{number}",
            command=[commands[group], "--name", f"{group}-{number}"],
            env=_on_a_card(cards[number % len(cards)], group, share) if cards and group != "aggregator" else {},
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


def _on_a_card(card: Card, group: str, share: int | None) -> dict[str, str]:
    env = {"CUDA_VISIBLE_DEVICES": card.uuid}
    if group == "reconstructor" and share is not None:
        env[f"{ENV_PREFIX}RECONSTRUCTOR__GPU_MEMORY_MB"] = str(share)
    return env


def _share(settings: Settings, cards: list[Card], counts: Mapping[str, int]) -> int | None:
    """MiB of a card for each of the reconstructors on it; None where it is one's own, or a setting says it."""
    if not cards or settings.reconstructor.gpu_memory_mb is not None:
        return None
    reconstructors, detectors = (-(-counts[group] // len(cards)) for group in ("reconstructor", "detector"))
    if reconstructors < 2:
        return None
    part = (min(card.memory_mb for card in cards) - detectors * DETECTOR_MB) // reconstructors - CONTEXT_MB
    return part if part >= LEAST_SHARE_MB else None


def _sharing(settings: Settings, cards: list[Card], cores: int) -> int:
    """How many SAM 3D Objects a card takes, the smallest of them to go by."""
    if not cards:
        return 1
    budget = settings.reconstructor.gpu_memory_mb
    needed = SAM3D_MESH_MB if settings.sam3d.mesh else SAM3D_MB
    one = needed if budget is None else budget + CONTEXT_MB
    by_memory = min(card.memory_mb for card in cards) // one
    return max(1, min(MOST_A_CARD, by_memory, cores // (CORES_EACH * len(cards))))


async def gpus() -> list[Card]:
    """The host's NVIDIA GPUs; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    process = await asyncio.create_subprocess_exec(
        tool,
        "--query-gpu=uuid,memory.total",
        "--format=csv,noheader,nounits",
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
    return cards_of(said.decode()) if process.returncode == 0 else []


def cards_of(said: str) -> list[Card]:
    """The cards in what nvidia-smi prints: a line each, of UUID and MiB. One that names no memory counts as small."""
    lines = (line.split(",") for line in said.splitlines() if line.strip())
    return [Card(uuid.strip(), int(rest[0]) if rest and rest[0].strip().isdigit() else 0) for uuid, *rest in lines]
