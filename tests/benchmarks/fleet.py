"""How close a fleet of GPUs comes to list scheduling where some objects take five times as long as others.

`python -m tests.benchmarks.fleet`: 400 objects, four a photo, all photos published at once, with log-normal times
(sigma 0.5) on 4, 16 and 64 simulated GPUs. Each run draws its times anew, by a seed, and all fleets have the same ones,
but for the scale. A simulated GPU is a real reconstructor process with a model child that sleeps; two detectors, as
there are two cores, take 50 ms a photo. Beside it

- list scheduling of the same times: the ideal, as the next object goes to the GPU that is free first;
- by count: each object given away as soon as it is known, to the GPU with the fewest unfinished ones (computed): the
  ideal of a policy that does not know how long an object will take.

`--fleet GPUS:MEAN_S`: the mean is longer where more GPUs share the two cores, lest the machine be what is measured:
64 objects a second are too many for it. How much of the cores was used stands beside each figure. Exit code 1 where a
fleet is over its limit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from typing import Any

from tests.benchmarks import states
from tests.benchmarks.figures import Spread
from tests.benchmarks.schedules import Photo, by_count, list_schedule, log_normal
from tests.benchmarks.service import PARTITIONS, Service, Used, timed_service
from tests.benchmarks.states import tell

SIGMA = 0.5
LIMITS = {4: 1.10, 16: 1.10, 64: 1.15}
"""Most that the makespan may be of list scheduling."""
BROKER = {"group.initial.rebalance.delay.ms": "3000"}
"""The fleet comes at once: it need not share out its partitions again for each that comes."""


def photos(objects: int, each: int, mean_s: float, image_s: float, seed: int) -> list[Photo]:
    """All of them published at once."""
    times = log_normal(objects, mean_s, SIGMA, seed)
    return [Photo(0.0, image_s, tuple(times[first : first + each])) for first in range(0, objects, each)]


async def one_run(service: Service, work: list[Photo], gpus: int, detectors: int, run: str) -> dict[str, float]:
    """From the first publish to the last completed event, beside the schedules, and how many cores were at it."""
    before, began = await asyncio.to_thread(Used.now), time.monotonic()
    took = max(ended for _, ended in await service.completed(work, run))
    used = await asyncio.to_thread(Used.now)
    return {
        "seconds": took,
        "ideal_s": max(list_schedule(work, detectors, gpus)),
        "by_count_s": max(by_count(work, detectors, gpus)),
        "cores": (used.cpu_s - before.cpu_s) / (time.monotonic() - began),
    }


async def one_fleet(told: argparse.Namespace, gpus: int, mean_s: float) -> dict[str, Any]:
    """All runs of one fleet."""
    tell(f"{gpus} GPUs: starting {told.detectors} detectors, {gpus} reconstructors, an aggregator")
    async with timed_service(told.detectors, gpus, object_partitions=max(PARTITIONS, gpus), broker=BROKER) as service:
        held = await asyncio.to_thread(Used.now, memory=True)
        tell(f"{gpus} GPUs: {held.processes} processes, {held.memory_mb:.0f} MiB")
        await service.completed([Photo(0.0, 0.02, (0.1, 0.1, 0.1, 0.1)) for _ in range(max(4, gpus // 4))], "warm")
        runs = []
        for number in range(told.runs):
            work = photos(told.objects, told.each, mean_s, told.image_ms / 1000, told.seed + number)
            one = await one_run(service, work, gpus, told.detectors, f"run-{number}")
            runs.append(one)
            tell(
                f"{gpus} GPUs, run {number + 1} of {told.runs}: {one['seconds']:.2f} s, "
                f"{one['seconds'] / one['ideal_s']:.3f} of list scheduling "
                f"(by count {one['by_count_s'] / one['ideal_s']:.3f}), {one['cores']:.2f} cores"
            )
    return {
        "gpus": gpus,
        "mean_s": mean_s,
        "processes": held.processes,
        "memory_mb": held.memory_mb,
        "runs": runs,
    }


def measure(told: argparse.Namespace) -> int:
    """All fleets, smallest first; each is kept as soon as it was measured."""
    states.quiet()
    fleets = []
    good = True
    for name in told.fleet:
        gpus, _, mean = name.partition(":")
        fleets.append(asyncio.run(one_fleet(told, int(gpus), float(mean or 1.0))))
        ratio = Spread.of([run["seconds"] / run["ideal_s"] for run in fleets[-1]["runs"]])
        limit = LIMITS.get(int(gpus))
        good &= limit is None or ratio.median <= limit
        tell(f"{gpus} GPUs: {ratio.shown()} of list scheduling" + (f", at most {limit} wanted" if limit else ""))
        figures = {
            "objects": told.objects,
            "each": told.each,
            "image_ms": told.image_ms,
            "detectors": told.detectors,
            "sigma": SIGMA,
            "seed": told.seed,
            "cores": os.cpu_count(),
            "limits": LIMITS,
            "fleets": _together(told, fleets),
        }
        states.save(told.states, "fleet", figures)
    return 0 if good else 1


def _together(told: argparse.Namespace, fleets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the fleets of other sizes that were measured before, where the same was asked of them."""
    last = states.load(told.states).get("fleet", {"figures": {}})["figures"]
    same = all(last.get(name) == getattr(told, name) for name in ("objects", "each", "image_ms", "detectors", "seed"))
    now = {one["gpus"] for one in fleets}
    kept = [one for one in last.get("fleets", []) if one["gpus"] not in now] if same else []
    return sorted([*kept, *fleets], key=lambda one: int(one["gpus"]))


def main() -> int:
    """Measure, keep, and say by the exit code whether it is enough."""
    parser = states.parser(__doc__)
    parser.add_argument("--fleet", nargs="+", default=["4:1", "16:1", "64:4"], metavar="GPUS:MEAN_S")
    parser.add_argument("--objects", type=int, default=400)
    parser.add_argument("--each", type=int, default=4, help="objects a photo")
    parser.add_argument("--image-ms", type=int, default=50)
    parser.add_argument("--detectors", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20261125)
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
