"""What the service adds to the models' own time, from the publish to the completed event in a reader's hands.

`python -m tests.benchmarks.latency`: a detector (50 ms a photo), two reconstructors (200 ms an object), an aggregator,
real processes on a private Kafka, two objects a photo. Photos come evenly, one a second, and at random (a Poisson
process) with half of the load that the GPUs can bear; both in turn, run by run. Publishing and reading are clients of
their own in this process, and the clock is its monotonic one. Subtracted are

- the models' time: a photo's and its longest object's;
- list scheduling of the same moments: the time that the models would take with nothing between them, waiting for each
  other included. What is over that is the service's.

Exit code 1 where the 50th or the 99th percentile over list scheduling is above its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from typing import Any

from tests.benchmarks import states
from tests.benchmarks.figures import Spread, percentile
from tests.benchmarks.schedules import Photo, list_schedule
from tests.benchmarks.service import timed_service
from tests.benchmarks.states import tell

GPUS = 2
LOAD = 0.5
LIMITS = {"50": 0.060, "99": 0.200}
"""Seconds, by percentile."""


def evenly(count: int, per_second: float) -> list[float]:
    """Moments at which photos come."""
    return [number / per_second for number in range(count)]


def at_random(count: int, per_second: float, seed: int) -> list[float]:
    """The same of a Poisson process."""
    numbers, now, found = random.Random(seed), 0.0, []
    for _ in range(count):
        now += numbers.expovariate(per_second)
        found.append(now)
    return found


def added(photos: list[Photo], seen: list[tuple[float, float]], detectors: int, gpus: int) -> dict[str, list[float]]:
    """Seconds of each photo over its models' time, and over list scheduling of the moments at which it was published.

    `seen`: when each was published, and when it was complete.
    """
    came = [Photo(at, one.image_s, one.objects_s) for one, (at, _) in zip(photos, seen, strict=True)]
    order = sorted(range(len(came)), key=lambda number: came[number].at)
    ideal = dict(zip(order, list_schedule([came[number] for number in order], detectors, gpus), strict=True))
    return {
        "model": [ended - at - one.image_s - max(one.objects_s) for one, (at, ended) in zip(came, seen, strict=True)],
        "ideal": [ended - ideal[number] for number, (_, ended) in enumerate(seen)],
    }


async def runs(told: argparse.Namespace) -> list[dict[str, Any]]:
    """Both loads in turn; what was added to each photo."""
    capacity = GPUS / (told.objects * told.object_ms / 1000)
    rates = {"evenly": told.per_second, "at random, half of the load": LOAD * capacity}
    loads: list[dict[str, Any]] = [
        {"name": name, "per_second": per_second, "model": [], "ideal": []} for name, per_second in rates.items()
    ]
    async with timed_service(1, GPUS) as service:
        tell("the service is ready")
        objects_s = (told.object_ms / 1000,) * told.objects
        await service.completed([Photo(0.2 * n, told.image_ms / 1000, objects_s) for n in range(10)], "warm")
        for run in range(told.runs):
            for place, load in enumerate(loads):
                moments = (
                    at_random(told.images, load["per_second"], told.seed + run)
                    if place
                    else evenly(told.images, load["per_second"])
                )
                photos = [Photo(at, told.image_ms / 1000, objects_s) for at in moments]
                found = added(photos, await service.completed(photos, f"run-{run}-{place}"), 1, GPUS)
                load["model"].append(found["model"])
                load["ideal"].append(found["ideal"])
                half, most = (1000 * percentile(found["ideal"], percent) for percent in (50, 99))
                tell(
                    f"run {run + 1} of {told.runs}, {load['name']}: over the schedule p50 {half:.0f}, p99 {most:.0f} ms"
                )
    return loads


def measure(told: argparse.Namespace) -> int:
    """Measure, keep and judge."""
    states.quiet()
    loads = asyncio.run(runs(told))
    names = ("images", "objects", "image_ms", "object_ms", "seed")
    figures = {name: getattr(told, name) for name in names} | {"gpus": GPUS, "limits": LIMITS, "loads": loads}
    states.save(told.states, "latency", figures)
    good = True
    for load in loads:
        for percent, limit in LIMITS.items():
            spread = Spread.of([percentile(run, float(percent)) for run in load["ideal"]])
            good &= spread.median <= limit
            tell(f"{load['name']}, p{percent} over list scheduling: {spread.shown()} s, at most {limit:g} wanted")
    return 0 if good else 1


def main() -> int:
    """Measure, keep, and say by the exit code whether it is enough."""
    parser = states.parser(__doc__)
    parser.add_argument("--images", type=int, default=60, help="of each load and run")
    parser.add_argument("--objects", type=int, default=2, help="of each photo")
    parser.add_argument("--image-ms", type=int, default=50)
    parser.add_argument("--object-ms", type=int, default=200)
    parser.add_argument("--per-second", type=float, default=1.0, help="of the first load")
    parser.add_argument("--seed", type=int, default=20261125)
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
