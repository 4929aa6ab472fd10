"""The service with stub models and workers that follow plans of shots, and what must hold at its end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from stream_worker import lag, topics
from stream_worker.audit.findings import Report
from stream_worker.audit.run import audit
from stream_worker.events import object_id
from stream_worker.publish import Publisher
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Reconstructor, Settings, Stage, Up, environment
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.faults.crash_points.plan import ROOT, Plan, Shot
from tests.integration.test_pipeline import Expected, Reader, made_up, require_exactly
from tests.photo_server import serving

READY_S = 120.0
READS = {
    "detector": [topics.IMAGES],
    "reconstructor": [topics.OBJECTS],
    "aggregator": [topics.DETECTIONS, topics.RECONSTRUCTIONS],
}


@contextmanager
def settings_for(kafka: str, prefix: str, folder: Path, *, session_timeout_ms: int, **up: int) -> Iterator[Settings]:
    """Settings of a service whose photos come from a server that lasts as long as the context."""
    with serving(made_up) as base:
        yield Settings(
            kafka=Kafka(
                bootstrap_servers=kafka,
                prefix=prefix,
                partitions=2,
                session_timeout_ms=session_timeout_ms,
                rebalance_timeout_ms=15_000,
                request_timeout_ms=10_000,
                transaction_timeout_ms=8_000,
            ),
            local=Local(data_dir=folder),
            images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
            detector=Detector(model="tests.stubs:Counted", threads=1, task_timeout_s=20),
            reconstructor=Reconstructor(model="tests.stubs:Dots", threads=1, task_timeout_s=20),
            stage=Stage(drain_s=3, retry_delay_s=0.1),
            up=Up(**up),
            log=Log(format="json"),
        )


@asynccontextmanager
async def started(
    settings: Settings,
    shots: Mapping[str, Sequence[Shot]],
    others: Mapping[str, Settings] | None = None,
) -> AsyncIterator[Supervisor]:
    """The service, ready, with `shots` for some of its workers, and `others` that have settings of their own.

    The plans of shots lie in the data folder.
    """
    await topics.create(settings.kafka)
    workers = plan(settings, [])
    for worker in workers:
        worker.env = {"PYTHONPATH": str(ROOT)}  # a model's process has no other way to the stubs
        if worker.name in shots:
            file = settings.local.data_dir / f"{worker.name}.json"
            worker.env = Plan.written(file, shots[worker.name]).environment()
        if others and worker.name in others:
            worker.env = {**worker.env, **environment(others[worker.name])}
    async with Supervisor(settings, workers, settings.local.data_dir / "logs") as supervisor:
        await supervisor.ready(READY_S)
        yield supervisor


def plan_of(settings: Settings, worker: str) -> Plan:
    """The plan of a worker that has one."""
    return Plan(settings.local.data_dir / f"{worker}.json")


def said(settings: Settings, worker: str) -> list[dict[str, Any]]:
    """What a worker wrote to its log, without what isn't JSON (a traceback of the interpreter)."""
    file = settings.local.data_dir / "logs" / f"{worker}.log"
    return [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]


@dataclass
class Photos:
    """Images to publish, one by one, all by the seed; and what must come of those that were."""

    settings: Settings
    seed: int
    base: str = field(init=False)
    expected: Expected = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = random.Random(self.seed)
        port = self.settings.images.allow_networks[0].rpartition(":")[2]
        self.base = f"http://127.0.0.1:{port}"

    async def publish(self, publisher: Publisher) -> str:
        """One more image, of one to four objects."""
        number, objects = len(self.expected), self._numbers.randint(1, 4)
        image_id = f"image-{number}"
        ids = frozenset(object_id(image_id, "live", index) for index in range(objects))
        self.expected[image_id] = ("complete", ids)
        await publisher.publish(f"{self.base}/{number}/{objects}", image_id=image_id)
        return image_id

    async def publish_many(self, count: int) -> None:
        """More images at once."""
        async with Publisher(self.settings) as publisher:
            for _ in range(count):
                await self.publish(publisher)


@dataclass(frozen=True)
class End:
    """What a service that has done everything left behind."""

    settings: Settings
    expected: Expected
    live: Reader
    fresh: Reader
    report: Report
    undone: int

    def require_exactly_right(self) -> None:
        """One outcome of each image, the right one, for both readers; nothing left to do; and the audit agrees."""
        require_exactly(self.live.events, self.expected)
        require_exactly(self.fresh.events, self.expected)
        assert self.report.holds, self.report.plain()
        assert self.undone == 0, f"{self.undone} records lie behind the committed offsets"


async def end(settings: Settings, expected: Expected, live: Reader, within_s: float = 120) -> End:
    """Wait until every image has its outcome, a little longer for what must not come, and read everything again."""
    await live.until(len(expected), within_s)
    await live.settled(2)
    async with Reader(settings) as fresh:
        await fresh.until(len(expected), 60)
        await fresh.settled(0.5)
    return End(settings, dict(expected), live, fresh, await audit(settings, drained=True), await undone(settings))


async def undone(settings: Settings, groups: Iterable[str] = READS) -> int:
    """Committed records at or behind the committed offsets of these groups."""
    kafka = settings.kafka
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, isolation_level="read_committed")
    await asyncio.gather(admin.start(), consumer.start())
    total = 0
    try:
        for group in groups:
            sources = [
                TopicPartition(kafka.prefix + name, number)
                for name in READS[group]
                for number in range(kafka.partitions)
            ]
            starts = await lag.committed(admin, consumer, kafka.prefix + group, sources)
            ends = await consumer.end_offsets(sources)
            total += await lag.count(consumer, starts, ends, most=10_000, within_s=20)
    finally:
        await asyncio.gather(admin.close(), consumer.stop())
    return total
