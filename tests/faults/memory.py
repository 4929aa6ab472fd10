"""The resident memory of every process of the service, sampled all the time, life by life."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from stream_worker.closing import end
from stream_worker.supervisor import Worker

EVERY_S = 2.0


@dataclass(slots=True)
class Life:
    """One process from its first sample to its last: the worker itself, or a child (model, decoder) of it."""

    worker: str
    pid: int
    child: bool
    at: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)


class Memory:
    """Samples all workers and their children every two seconds."""

    def __init__(self, workers: Sequence[Worker], started: float) -> None:
        self._workers = workers
        self._started = started
        self._lives: dict[tuple[int, float], Life] = {}
        self._task: asyncio.Task[None]

    @property
    def lives(self) -> list[Life]:
        """All processes that were seen."""
        return list(self._lives.values())

    async def __aenter__(self) -> Memory:
        self._task = asyncio.create_task(self._watch(), name="memory")
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._task)

    async def _watch(self) -> None:
        while True:
            for worker in self._workers:
                self._sample(worker)
            await asyncio.sleep(EVERY_S)

    def _sample(self, worker: Worker) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            if worker.pid is None:
                return
            parent = psutil.Process(worker.pid)
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    key = (process.pid, process.create_time())
                    life = self._lives.setdefault(key, Life(worker.name, process.pid, process.pid != worker.pid))
                    life.rss_mb.append(round(process.memory_info().rss / 2**20, 2))
                    life.at.append(round(time.monotonic() - self._started, 1))
