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
import statistics
import sys
import time
from dataclasses import asdict, dataclass

from aiokafka.partitioner import murmur2

from stream_worker.events import object_id
from tests.benchmarks import states
from tests.benchmarks.schedules import Photo, detected, list_schedule
from tests.benchmarks.service import PARTITIONS, timed_service


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

    @property
    def photos(self) -> list[Photo]:
        """All of them published at once."""
        return [Photo(0.0, self.image_s, (self.object_s,) * self.objects)] * self.images


SCENARIOS = (
    *(Scenario(images, objects) for images, objects in ((1, 1), (1, 3), (4, 1), (4, 3), (10, 3), (10, 5))),
    Scenario(4, 3, 1.0, 7.0, 1.05),
)


def hashed(scenario: Scenario, gpus: int, run: str) -> float:
    """Seconds where nothing costs anything, but the GPU is that of the key's partition; all have equally many."""
    keys = [
        object_id(f"{run}-{image}", "live", index)
        for image in range(scenario.images)
        for index in range(scenario.objects)
    ]
    partitions = [(murmur2(key.encode()) & 0x7FFFFFFF) % PARTITIONS for key in keys]
    owners = [partition * gpus // PARTITIONS for partition in partitions]
    ready = [moment for moment in detected(scenario.photos, gpus) for _ in range(scenario.objects)]
    free = [0.0] * gpus
    for moment, gpu in sorted(zip(ready, owners, strict=True)):
        free[gpu] = max(free[gpu], moment) + scenario.object_s
    return max([*free, *ready])


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


async def measure(told: argparse.Namespace) -> int:
    """All scenarios."""
    good = True
    rows = []
    async with timed_service(told.gpus, told.gpus) as service:
        await service.completed(Scenario(8, 2, 0.05, 0.1).photos, "warm")
        print(f"{told.gpus} GPUs, {told.runs} runs; makespan / ideal: median (least to most)\n")
        print("| images x objects | ideal, s | the service | a pool in one process | key hashing | at most |")
        print("|---|---|---|---|---|---|")
        for scenario in told.scenarios:
            ideal = max(list_schedule(scenario.photos, told.gpus, told.gpus))
            whole, pooled, by_key = [], [], []
            for number in range(told.runs):
                run = f"{scenario.name}-{number}".replace(" ", "_").replace("/", "_")
                whole.append(max(ended for _, ended in await service.completed(scenario.photos, run)) / ideal)
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
