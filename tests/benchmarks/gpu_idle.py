"""How long the model waits between two objects, with a backlog: the overlap of fetch, work, upload and commit.

`python -m tests.benchmarks.gpu_idle`: a real reconstructor process on a private Kafka, a photo of 1024 x 768 for each
object, a model that takes 0.5 s and answers with a PLY of 300,000 Gaussians (20 MB). Prints the idle share of an
object's time, the median of all gaps; exit code 1 where it is above 2 %.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from PIL import Image

from stream_worker import topics
from stream_worker.contract import encode
from stream_worker.local_kafka import LocalKafka
from stream_worker.settings import Kafka, Local, Log, Settings, Up
from stream_worker.settings import Reconstructor as ReconstructorSettings
from stream_worker.store import open_store
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.benchmarks.objects import object_event
from tests.benchmarks.slow_model import SECONDS

WIDTH, HEIGHT = 1024, 768
WANTED = 0.02


async def send(settings: Settings, objects: int) -> None:
    """That many objects, each on a photo of its own."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await producer.start()
    async with open_store(settings) as store:
        for number in range(objects):
            shade = np.full((HEIGHT, WIDTH, 3), number % 256, np.uint8)
            file = io.BytesIO()
            Image.fromarray(shade).save(file, "JPEG")
            blob = await store.put_content("images", file.getvalue(), "image/jpeg")
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[100 + number : 400, 200:700] = True
            event = object_event(number, blob, mask)
            await producer.send_and_wait(settings.kafka.prefix + topics.OBJECTS, encode(event), partition=0)
    await producer.stop()


@dataclass(frozen=True, slots=True)
class Span:
    """When the model worked on an object, and how many seconds of it were its own, where it says that."""

    began: float
    ended: float
    own_s: float | None = None


@dataclass(frozen=True, slots=True)
class Between:
    """From one object of a backlog to the next, in seconds: medians of all pairs but the first two objects'."""

    objects: int
    period_s: float
    gap_s: float
    least_gap_s: float
    most_gap_s: float
    idle_share: float
    own_s: float | None

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Between:
        pairs = list(itertools.pairwise(spans[2:]))  # the first two only fill the pipe
        gaps = [later.began - sooner.ended for sooner, later in pairs]
        periods = [later.began - sooner.began for sooner, later in pairs]
        own = [span.own_s for span in spans[2:] if span.own_s is not None]
        return cls(
            objects=len(spans),
            period_s=statistics.median(periods),
            gap_s=statistics.median(gaps),
            least_gap_s=min(gaps),
            most_gap_s=max(gaps),
            idle_share=statistics.median(gap / period for gap, period in zip(gaps, periods, strict=True)),
            own_s=statistics.median(own) if own else None,
        )


def worked(log: Path) -> list[Span]:
    """From the model's own words in the worker's log."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    said = (str(line.get("line", "")) for line in lines)
    return [Span(*map(float, line.split()[1:])) for line in said if line.startswith("worked ")]


async def measure(
    objects: int,
    *,
    within_s: float,
    ready_s: float = 120,
    env: Mapping[str, str] | None = None,
    **sections: Any,
) -> Between:
    """Have a reconstructor of these settings, started with `env`, work through so many objects."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-idle-")))
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        settings = Settings(
            kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, partitions=1),
            local=Local(data_dir=folder),
            up=Up(detectors=0, reconstructors=1, aggregators=0),
            log=Log(format="json"),
            **sections,
        )
        await topics.create(settings.kafka)
        await send(settings, objects)
        workers = [replace(worker, env=dict(env or {})) for worker in plan(settings, [])]
        supervisor = await stack.enter_async_context(Supervisor(settings, workers, folder / "logs"))
        await supervisor.ready(ready_s)
        log = folder / "logs" / "reconstructor-0.log"
        async with asyncio.timeout(within_s):
            while len(spans := worked(log)) < objects:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(1)
    return Between.of(spans)


def main() -> int:
    """Measure once, print it, and say by the exit code whether it is enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=60)
    parser.add_argument("--gaussians", type=int, default=300_000)
    told = parser.parse_args()
    model = ReconstructorSettings(model="tests.benchmarks.slow_model:Slow", threads=1, max_gaussians=told.gaussians)
    found = asyncio.run(measure(told.objects, within_s=60 + 4 * told.objects * SECONDS, reconstructor=model))
    print(f"{told.objects} objects of {SECONDS} s and {told.gaussians} Gaussians, each on a photo of its own, one lane")
    print(
        f"idle between two objects: median {1000 * found.gap_s:.1f} ms, {1000 * found.least_gap_s:.1f} to "
        f"{1000 * found.most_gap_s:.1f} ms: {found.idle_share:.1%} of an object's time"
    )
    return 0 if found.idle_share <= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
