"""How much work goes on while a member joins and leaves every three seconds.

`python -m tests.benchmarks.rebalance_storm`: real reconstructor processes with a stub model (20 ms an object) on a
private Kafka; first undisturbed, then with one more member that comes and goes, twice in turn. Prints objects a second,
the median over spans of one join and one leave, and their ratio; exit code 1 where that is below one half.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stream_worker import topics
from stream_worker.contract import encode
from stream_worker.local_kafka import LocalKafka
from stream_worker.reconstructor import Reconstructor
from stream_worker.settings import Kafka, Local, Log, Settings, Up
from stream_worker.settings import Reconstructor as ReconstructorSettings
from stream_worker.store import open_store
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.benchmarks.objects import object_event
from tests.faults.storm import EVERY_S, storm
from tests.stubs import OBJECT_S, SIDE, photo

SPAN_S = 2 * EVERY_S
WANTED = 0.5


class Kept(Reconstructor):
    """A reconstructor whose model stays loaded between two memberships: only the group is to be disturbed."""

    loaded = False

    async def start(self) -> None:
        if not self.loaded:
            await super().start()
            self.loaded = True

    async def stop(self) -> None:
        """Not yet."""

    async def end(self) -> None:
        await super().stop()


async def send(settings: Settings, objects: int, seed: int) -> None:
    """That many objects, each with a mask of its own, so that no result is found again."""
    async with open_store(settings) as store:
        blob = await store.put_content("images", photo(1, 1), "image/png")
    numbers = random.Random(seed)
    seen: set[tuple[int, int, int, int]] = set()
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers, linger_ms=20)
    await producer.start()
    while len(seen) < objects:
        x, y = numbers.randint(0, SIDE - 9), numbers.randint(0, SIDE - 9)
        box = (x, y, numbers.randint(x + 8, SIDE - 1), numbers.randint(y + 8, SIDE - 1))
        if box in seen:
            continue
        mask = np.zeros((SIDE, SIDE), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        event = object_event(len(seen), blob, mask)
        topic, partition = settings.kafka.prefix + topics.OBJECTS, len(seen) % settings.kafka.partitions
        await producer.send(topic, encode(event), key=event.object_id.encode(), partition=partition)
        seen.add(box)
    await producer.stop()


class Rate:
    """Counts committed results as they come."""

    def __init__(self, settings: Settings) -> None:
        self.count = 0
        self._consumer = AIOKafkaConsumer(
            settings.kafka.prefix + topics.RECONSTRUCTIONS,
            bootstrap_servers=settings.kafka.bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )

    async def run(self) -> None:
        await self._consumer.start()
        try:
            while True:
                self.count += sum(map(len, (await self._consumer.getmany(timeout_ms=100)).values()))
        finally:
            await self._consumer.stop()

    async def spans(self, how_many: int) -> list[float]:
        """Results a second in so many spans, one after the other."""
        rates = []
        for _ in range(how_many):
            before, started = self.count, time.monotonic()
            await asyncio.sleep(SPAN_S)
            rates.append((self.count - before) / (time.monotonic() - started))
        return rates


async def measure(members: int, spans: int, objects: int, seed: int, session_timeout_ms: int) -> float:
    """Storm against calm, in that many spans each, half of them before and half after the other."""
    calm: list[float] = []
    stormy: list[float] = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-storm-")))
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        settings = Settings(
            kafka=Kafka(
                bootstrap_servers=broker.bootstrap_servers, partitions=12, session_timeout_ms=session_timeout_ms
            ),
            local=Local(data_dir=folder),
            reconstructor=ReconstructorSettings(model="tests.stubs:Dots", threads=1),
            up=Up(detectors=0, reconstructors=members, aggregators=0),
            log=Log(format="json", level="warning"),
        )
        await topics.create(settings.kafka)
        await send(settings, objects, seed)
        extra = Kept(settings)
        await extra.start()
        stack.push_async_callback(extra.end)
        supervisor = await stack.enter_async_context(Supervisor(settings, plan(settings, []), folder / "logs"))
        await supervisor.ready(120)
        rate = Rate(settings)
        counting = asyncio.create_task(rate.run())
        stack.callback(counting.cancel)
        await rate.spans(1)  # everything is warm
        joins = 0
        for _ in range(2):
            calm += await rate.spans(spans // 2)
            over = asyncio.Event()
            storming = asyncio.create_task(storm(lambda: extra, settings, over))
            stormy += await rate.spans(spans // 2)
            over.set()
            joins += await storming
        left = objects - rate.count
    ratio = statistics.median(stormy) / statistics.median(calm)
    print(
        f"{members} members, {1000 * OBJECT_S:.0f} ms an object, session timeout {session_timeout_ms} ms, seed {seed}"
    )
    print(f"calm:  median {statistics.median(calm):6.1f} objects/s  {[round(one) for one in calm]}")
    print(f"storm: median {statistics.median(stormy):6.1f} objects/s  {[round(one) for one in stormy]}, {joins} joins")
    print(f"storm / calm: {ratio:.2f}" + ("" if left > 0 else " (WRONG: the objects ran out)"))
    return ratio if left > 0 else 0.0


def main() -> int:
    """Measure once, print it, and say by the exit code whether it is enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--spans", type=int, default=10, help="spans of a join and a leave, calm and stormy each")
    parser.add_argument("--objects", type=int, default=30_000)
    parser.add_argument("--session-timeout-ms", type=int, default=45_000)
    parser.add_argument("--seed", type=int, default=20261124)
    told = parser.parse_args()
    ratio = asyncio.run(measure(told.members, told.spans, told.objects, told.seed, told.session_timeout_ms))
    return 0 if ratio >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
