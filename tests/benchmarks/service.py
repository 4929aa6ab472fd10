"""The whole service with models that only take their time, on a private Kafka, for as long as a benchmark needs it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream_worker import topics
from stream_worker.lag import owners
from stream_worker.local_kafka import LocalKafka
from stream_worker.publish import Publisher
from stream_worker.results import Results
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Reconstructor, Settings, Up
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.benchmarks.schedules import Photo
from tests.benchmarks.timed import photo
from tests.photo_server import serving

READY_S = 600.0
LAST_S = 900.0
PARTITIONS = 12


@dataclass(slots=True)
class Service:
    """One that runs. Photos say by their URL how long they and their objects take."""

    settings: Settings
    base: str
    _numbers: dict[str, int] = field(default_factory=dict)

    def url(self, one: Photo, name: str) -> str:
        """Where a photo is. Its bytes are its own, so that no result of another one is found."""
        objects = "-".join(str(round(1000 * seconds)) for seconds in one.objects_s)
        return f"{self.base}/{round(1000 * one.image_s)}/{objects}/{name}"

    async def completed(self, photos: Sequence[Photo], run: str) -> list[tuple[float, float]]:
        """When each was published, and when a reader of results had it: seconds since the first was to be published."""
        began = [0.0] * len(photos)
        ended = dict.fromkeys(f"{run}-{number}" for number in range(len(photos)))
        done: dict[str, float] = {}
        async with Results(self.settings) as results, Publisher(self.settings) as publisher:
            await asyncio.sleep(1.5)  # the balance of before has been measured
            start = time.monotonic()

            async def publish(number: int, one: Photo) -> None:
                await asyncio.sleep(max(0.0, start + one.at - time.monotonic()))
                began[number] = time.monotonic() - start
                name = f"{run}-{number}"
                await publisher.publish(self.url(one, name), image_id=name)

            publishing = [asyncio.create_task(publish(number, one)) for number, one in enumerate(photos)]
            async with asyncio.timeout(LAST_S):
                async for image in results:
                    if image.image_id not in ended:
                        continue
                    if image.status != "complete":
                        sys.exit(f"{image.image_id} is {image.status}")
                    done[image.image_id] = time.monotonic() - start
                    if len(done) == len(photos):
                        break
            await asyncio.gather(*publishing)
        return [(began[number], done[name]) for number, name in enumerate(ended)]


@asynccontextmanager
async def timed_service(
    detectors: int,
    reconstructors: int,
    *,
    object_partitions: int = PARTITIONS,
    broker: Mapping[str, str] | None = None,
) -> AsyncIterator[Service]:
    """Detectors, reconstructors and an aggregator, real processes, all of them with partitions of their own."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-bench-")))
        numbers: dict[str, int] = {}

        def answer(path: str) -> tuple[int, str, bytes]:
            image_ms, objects = path.split("/")[1:3]
            number = numbers.setdefault(path, len(numbers))
            return 200, "image/png", photo(number, int(image_ms), [int(one) for one in objects.split("-")])

        base = stack.enter_context(serving(answer))
        kafka = await stack.enter_async_context(LocalKafka(folder / "broker", config=broker))
        settings = Settings(
            kafka=Kafka(bootstrap_servers=kafka.bootstrap_servers, partitions=PARTITIONS),
            local=Local(data_dir=folder / "data"),
            images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
            detector=Detector(model="tests.benchmarks.timed:TimedDetector", threads=1),
            reconstructor=Reconstructor(model="tests.benchmarks.timed:TimedDots", threads=1),
            up=Up(detectors=detectors, reconstructors=reconstructors, aggregators=1),
            log=Log(format="json", level="warning"),
        )
        async with topics.admin(settings.kafka) as admin:
            await admin.create_topics([NewTopic(topics.OBJECTS, object_partitions, 1)])
        await topics.create(settings.kafka)
        supervisor = await stack.enter_async_context(Supervisor(settings, plan(settings, []), folder / "logs"))
        await supervisor.ready(READY_S)
        async with topics.admin(settings.kafka) as admin:
            await _shared_out(admin, reconstructors)
        yield Service(settings, base)


async def _shared_out(admin: AIOKafkaAdminClient, reconstructors: int) -> None:
    """Wait until every reconstructor has partitions: the last ones to come have made the others give some up."""
    async with asyncio.timeout(READY_S):
        while len(set((await owners(admin, "reconstructor")).values())) < reconstructors:  # noqa: ASYNC110  # none tells
            await asyncio.sleep(0.5)


@dataclass(frozen=True, slots=True)
class Used:
    """What this process and all below it hold and have used: the broker, the workers, their models."""

    processes: int
    memory_mb: float
    """Each page counted once (PSS)."""
    cpu_s: float

    @classmethod
    def now(cls, *, memory: bool = False) -> Used:
        """`memory` takes a while with a hundred processes."""
        ours = psutil.Process()
        count, held, seconds = 0, 0.0, 0.0
        for one in (ours, *ours.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = one.cpu_times()
                seconds += times.user + times.system
                held += one.memory_full_info().pss / 2**20 if memory else 0.0
                count += 1
        return cls(count, held, seconds)
