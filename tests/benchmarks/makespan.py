"""How close the service comes to the ideal schedule: from the first photo published to the last image completed.

`python -m tests.benchmarks.makespan`: detectors, reconstructors and an aggregator, real processes on a private Kafka,
with models that only take their time (`timed.py`). Each scenario several times, each time beside

- ideal: list scheduling, nothing costs anything: detectors take the next photo, GPUs the next object;
- a pool: tasks of one asyncio process that sleep as long, as a server would do it that has all GPUs in its own hand;
- hashing: the ideal but for the partition, and so the GPU, which the key alone chooses (computed, not run).

Prints a table of ratios to the ideal, and keeps them for `page.py`; exit code 1 where a median is over the limit of its
scale.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from aiokafka.partitioner import murmur2

from stream_worker import topics
from stream_worker.events import object_id
from stream_worker.local_kafka import LocalKafka
from stream_worker.publish import Publisher
from stream_worker.results import Results
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Reconstructor, Settings, Up
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.benchmarks import states
from tests.benchmarks.timed import photo
from tests.photo_server import serving

READY_S = 180.0
LAST_S = 600.0
PARTITIONS = 12


@dataclass(frozen=True, slots=True)
class Scenario:
    """So many photos with so many objects each, at once."""

    images: int
    objects: int
    image_s: float = 0.1
    object_s: float = 0.7
    limit: float = 1.15
    """Most that the makespan may be of the ideal."""

    @property
    def name(self) -> str:
        return f"{self.images} x {self.objects}, {self.image_s:g} s an image, {self.object_s:g} s an object"


SCENARIOS = (
    *(Scenario(images, objects) for images, objects in ((1, 1), (1, 3), (4, 1), (4, 3), (10, 3), (10, 5))),
    Scenario(4, 3, 1.0, 7.0, 1.05),
)


def schedule(scenario: Scenario, gpus: int, owners: Sequence[int] | None = None) -> float:
    """Seconds that it takes where nothing costs anything. `owners`: the GPU of each object; None: the next free one."""
    detectors = [0.0] * gpus
    ready = []
    for _ in range(scenario.images):
        done = heapq.heappop(detectors) + scenario.image_s
        heapq.heappush(detectors, done)
        ready += [done] * scenario.objects
    free = [0.0] * gpus
    for number, moment in enumerate(sorted(ready)):
        gpu = free.index(min(free)) if owners is None else owners[number]
        free[gpu] = max(free[gpu], moment) + scenario.object_s
    return max([*free, *ready])


def hashed(scenario: Scenario, gpus: int, run: str) -> float:
    """The same where the partition is that of the key, and GPUs have partitions in equal parts."""
    keys = [
        object_id(f"{run}-{image}", "live", index)
        for image in range(scenario.images)
        for index in range(scenario.objects)
    ]
    partitions = [(murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS for key in keys]
    return schedule(scenario, gpus, [partition * gpus // PARTITIONS for partition in partitions])


async def pool(scenario: Scenario, gpus: int) -> float:
    """Seconds in one process that has all GPUs in its own hand."""
    photos: asyncio.Queue[int] = asyncio.Queue()
    work: asyncio.Queue[int] = asyncio.Queue()
    left = scenario.images * scenario.objects
    over = asyncio.Event()

    async def detector() -> None:
        while True:
            await photos.get()
            await asyncio.sleep(scenario.image_s)
            for number in range(scenario.objects):
                work.put_nowait(number)

    async def reconstructor() -> None:
        nonlocal left
        while True:
            await work.get()
            await asyncio.sleep(scenario.object_s)
            left -= 1
            if left == 0:
                over.set()

    tasks = [asyncio.create_task(one()) for one in (detector, reconstructor) for _ in range(gpus)]
    began = time.monotonic()
    for number in range(scenario.images):
        photos.put_nowait(number)
    await over.wait()
    took = time.monotonic() - began
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return took


async def service(settings: Settings, scenario: Scenario, base: str, run: str) -> float:
    """Seconds from the first publish to the last completed event."""
    names = [f"{run}-{number}" for number in range(scenario.images)]
    waiting = set(names)
    millis = f"{round(1000 * scenario.image_s)}/{scenario.objects}/{round(1000 * scenario.object_s)}"
    async with Results(settings) as results, Publisher(settings) as publisher:
        await asyncio.sleep(1.5)  # the balance of before has been measured
        began = time.monotonic()
        await asyncio.gather(*(publisher.publish(f"{base}/{millis}/{name}", image_id=name) for name in names))
        async with asyncio.timeout(LAST_S):
            async for image in results:
                if image.image_id in waiting and image.status != "complete":
                    sys.exit(f"{image.image_id} is {image.status}")
                waiting.discard(image.image_id)
                if not waiting:
                    return time.monotonic() - began
    raise AssertionError


async def measure(told: argparse.Namespace) -> int:
    """All scenarios."""
    numbers: dict[str, int] = {}

    def answer(path: str) -> tuple[int, str, bytes]:
        image_ms, objects, object_ms = (int(part) for part in path.split("/")[1:4])
        number = numbers.setdefault(path, len(numbers))
        return 200, "image/png", photo(number, image_ms, [object_ms] * objects)

    good = True
    rows = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-makespan-")))
        base = stack.enter_context(serving(answer))
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        settings = Settings(
            kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, partitions=PARTITIONS),
            local=Local(data_dir=folder / "data"),
            images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
            detector=Detector(model="tests.benchmarks.timed:TimedDetector", threads=1),
            reconstructor=Reconstructor(model="tests.benchmarks.timed:TimedDots", threads=1),
            up=Up(detectors=told.gpus, reconstructors=told.gpus, aggregators=1),
            log=Log(format="json", level="warning"),
        )
        await topics.create(settings.kafka)
        supervisor = await stack.enter_async_context(Supervisor(settings, plan(settings, []), folder / "logs"))
        await supervisor.ready(READY_S)
        await service(settings, Scenario(8, 2, 0.05, 0.1), base, "warm")
        print(f"{told.gpus} GPUs, {told.runs} runs; makespan / ideal: median (least to most)\n")
        print("| images x objects | ideal, s | the service | a pool in one process | key hashing | at most |")
        print("|---|---|---|---|---|---|")
        for scenario in told.scenarios:
            ideal = schedule(scenario, told.gpus)
            whole, pooled, by_key = [], [], []
            for number in range(told.runs):
                run = f"{scenario.name}-{number}".replace(" ", "_").replace("/", "_")
                whole.append(await service(settings, scenario, base, run) / ideal)
                pooled.append(await pool(scenario, told.gpus) / ideal)
                by_key.append(hashed(scenario, told.gpus, run) / ideal)
            good &= statistics.median(whole) <= scenario.limit
            cells = (
                f"{statistics.median(one):.3f} ({min(one):.3f} to {max(one):.3f})" for one in (whole, pooled, by_key)
            )
            print(f"| {scenario.name} | {ideal:.2f} | {' | '.join(cells)} | {scenario.limit:.2f} |", flush=True)
            row = {"ideal_s": ideal, "service": whole, "pool": pooled, "hashing": by_key, "name": scenario.name}
            rows.append(asdict(scenario) | row)
            states.save(told.states, "makespan", {"gpus": told.gpus, "scenarios": rows})
    return 0 if good else 1


def main() -> int:
    """Measure, print, and say by the exit code whether it is enough."""
    parser = states.parser(__doc__)
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--first", type=int, default=len(SCENARIOS), help="only so many scenarios")
    told = parser.parse_args()
    told.scenarios = SCENARIOS[: told.first]
    return asyncio.run(measure(told))


if __name__ == "__main__":
    sys.exit(main())
