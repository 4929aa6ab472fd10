"""Which share of the time the model works while there is a backlog, for short objects and long ones.

`python -m tests.benchmarks.busy`: one real reconstructor on a private Kafka with the usual twelve partitions, a photo
of 1024 x 768 for each object, models that sleep 0.05, 0.2, 0.7 and 7 s. All sizes in turn, run by run; the moments are
the model's own, the first two objects of each backlog are left out (they fill the pipe). The reference is the model
itself with nothing between two objects: a share of 1. Exit code 1 where a share is below its limit.

A PLY of 20 MB beside the model's work: `gpu_idle.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from PIL import Image

from stream_worker import topics
from stream_worker.contract import encode
from stream_worker.local_kafka import LocalKafka
from stream_worker.settings import Kafka, Local, Log, Reconstructor, Settings, Up
from stream_worker.store import Store, open_store
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.benchmarks import states
from tests.benchmarks.figures import Spread
from tests.benchmarks.gpu_idle import Span, worked
from tests.benchmarks.objects import object_event
from tests.benchmarks.states import tell

WIDTH, HEIGHT = 1024, 768
SIZES = {0.05: 160, 0.2: 60, 0.7: 20, 7.0: 4}
"""Objects of each backlog, by the seconds that one takes."""
LIMITS = {0.2: 0.95, 0.7: 0.99}
"""Least share that is wanted."""
FILLING = 2
READY_S = 120.0


def share(spans: Sequence[Span]) -> float:
    """The part of the time in which the model worked, from the third object's beginning to the last one's."""
    pairs = list(pairwise(spans[FILLING:]))
    return sum(one.ended - one.began for one, _ in pairs) / (pairs[-1][1].began - pairs[0][0].began)


def gaps(spans: Sequence[Span]) -> list[float]:
    """Seconds between two objects, of the same ones."""
    return [later.began - sooner.ended for sooner, later in pairwise(spans[FILLING:])]


async def backlog(settings: Settings, store: Store, first: int, count: int, seconds: float) -> None:
    """So many objects at once, numbered from `first` on, each on a photo of its own, on all partitions in turn."""
    events = []
    for number in range(first, first + count):
        colours = np.full((HEIGHT, WIDTH, 3), [number % 256, number // 256, 90], np.uint8)
        file = io.BytesIO()
        Image.fromarray(colours).save(file, "JPEG")
        blob = await store.put_content("images", file.getvalue(), "image/jpeg")
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[100 + number % 250 : 400, 200 + number // 250 : 700] = True
        events.append(object_event(number, blob, mask).model_copy(update={"label": f"{round(1000 * seconds)} ms"}))
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers, linger_ms=5) as producer:
        sent = [
            await producer.send(topics.OBJECTS, encode(event), partition=number % settings.kafka.partitions)
            for number, event in enumerate(events)
        ]
        await asyncio.gather(*sent)


async def runs(told: argparse.Namespace) -> dict[float, list[list[Span]]]:
    """What the model says of its work, by the seconds of an object and run by run."""
    found: dict[float, list[list[Span]]] = {seconds: [] for seconds in told.seconds}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-busy-")))
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        settings = Settings(
            kafka=Kafka(bootstrap_servers=broker.bootstrap_servers),
            local=Local(data_dir=folder / "data"),
            reconstructor=Reconstructor(model="tests.benchmarks.timed:SayingDots", threads=1),
            up=Up(detectors=0, reconstructors=1, aggregators=0),
            log=Log(format="json"),
        )
        await topics.create(settings.kafka)
        store = await stack.enter_async_context(open_store(settings))
        supervisor = await stack.enter_async_context(Supervisor(settings, plan(settings, []), folder / "logs"))
        await supervisor.ready(READY_S)
        log, number = folder / "logs" / "reconstructor-0.log", 0
        for run in range(told.runs):
            for seconds in told.seconds:
                count = max(FILLING + 2, told.objects or SIZES.get(seconds, 20))
                await backlog(settings, store, number, count, seconds)
                number += count
                async with asyncio.timeout(60 + 3 * count * (seconds + 0.1)):
                    while len(spans := worked(log)) < number:  # noqa: ASYNC110  # nothing tells
                        await asyncio.sleep(0.5)
                spans = spans[-count:]
                found[seconds].append(spans)
                tell(f"run {run + 1} of {told.runs}, {count} objects of {seconds:g} s: {share(spans):.2%} busy")
    return found


def measure(told: argparse.Namespace) -> int:
    """Measure, keep and judge."""
    states.quiet()
    found = asyncio.run(runs(told))
    sizes: list[dict[str, Any]] = [
        {
            "seconds": seconds,
            "objects": len(of_runs[0]),
            "limit": LIMITS.get(seconds),
            "shares": [share(spans) for spans in of_runs],
            "gaps_ms": [1000 * gap for spans in of_runs for gap in gaps(spans)],
        }
        for seconds, of_runs in found.items()
    ]
    states.save(told.states, "busy", {"sizes": sizes, "photo": [WIDTH, HEIGHT]})
    good = True
    for size in sizes:
        busy = Spread.of(size["shares"])
        good &= size["limit"] is None or busy.median >= size["limit"]
        tell(f"{size['seconds']:g} s an object: busy {busy.shown(4)}")
    return 0 if good else 1


def main() -> int:
    """Measure, keep, and say by the exit code whether it is enough."""
    parser = states.parser(__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=list(SIZES))
    parser.add_argument("--objects", type=int, help="of each backlog, instead of as many as fit its seconds")
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
