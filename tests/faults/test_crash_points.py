"""A worker of each group dies before and after every step of its work, one step a life; nothing is lost, nothing twice.

One run serves all tests of this file: the three workers die at the same time, each at its own pace, and images are
published until the last point has been passed. What is committed stands before each shot, so that it is not one record
that dies again and again: that is `test_record_that_kills_its_worker.py`.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream_worker import supervisor
from stream_worker.publish import Publisher
from tests.conftest import run
from tests.faults.crash_points.plan import Shot
from tests.faults.service import End, Photos, end, plan_of, settings_for, started
from tests.integration.test_pipeline import Reader

SEED = int(os.environ.get("SEED", "20261124"))
EVERY_S = 0.2
UNFINISHED = 20
"""Images on their way at once: enough for every worker to have work, few enough to be done soon after the last shot."""
FIRED_WITHIN_S = 600


ALL = os.environ.get("CRASH_POINTS") == "all"
"""Also both sides of a gap between two steps, which are one state of the world: twice the lives, twice the time."""
GAPS = ["before begin", "before first produce", "after first produce", "before offsets", "before commit"]
STEPS = {
    "detector-0": ["take over", "fetch", "put", "infer"],
    "reconstructor-0": ["take over", "infer", "put", "note"],
    "aggregator-0": ["take over", "restore", "process"],
}


def points(worker: str) -> list[str]:
    """Every gap between two steps of the worker's work, from its first to its last."""
    mine = [f"before {step}" for step in STEPS[worker]]
    points = {*mine, *GAPS, "commit sent", "after commit"}
    if worker == "reconstructor-0":
        points.remove("after first produce")  # it has one output: nothing lies between the first and the last
    if ALL:
        points |= {point.replace("before", "after") for point in points if point.startswith("before")}
        points.add("before last produce")
    return sorted(points)


def shots(worker: str, seed: int) -> list[Shot]:
    """The points of the worker in an order of the seed, each at its first, second or third pass."""
    numbers = random.Random(f"{seed} {worker}")
    made = []
    for point in points(worker):
        if point.endswith(("take over", "restore")):
            made.append(Shot(point, nth=numbers.randint(1, 2)))  # of its two lanes
            continue
        several = 2 if point.endswith("produce") and worker != "reconstructor-0" else 0
        made.append(Shot(point, nth=numbers.randint(1, 3), commits=1, outputs=several))
    numbers.shuffle(made)
    return made


@dataclass(frozen=True)
class Crashed:
    """What a run showed."""

    fired: dict[str, list[str]]
    starts: dict[str, int]
    end: End


async def crash(kafka: str, prefix: str, folder: Path) -> Crashed:
    """Publish until every shot was fired, then wait for everything to be done."""
    with settings_for(
        kafka, prefix, folder, session_timeout_ms=10_000, detectors=1, reconstructors=1, aggregators=1
    ) as settings:
        planned = {worker: shots(worker, SEED) for worker in STEPS}
        photos = Photos(settings, SEED)
        async with (
            started(settings, planned) as running,
            Publisher(settings) as publisher,
            Reader(settings) as live,
        ):

            def left() -> dict[str, list[str]]:
                plans = {worker: plan_of(settings, worker) for worker in STEPS}
                return {w: [shot.point for shot in p.shots()[len(p.fired()) :]] for w, p in plans.items()}

            try:
                async with asyncio.timeout(FIRED_WITHIN_S):
                    while any(left().values()):
                        if len(photos.expected) - len(live.events) < UNFINISHED:
                            await photos.publish(publisher)
                        await live.settled(EVERY_S)
            except TimeoutError:
                print(f"seed {SEED}: not fired: {left()}")
            done = await end(settings, photos.expected, live)
            starts = {worker.name: worker.starts for worker in running.workers}
        fired = {worker: [shot.point for shot in plan_of(settings, worker).fired()] for worker in STEPS}
    return Crashed(fired, starts, done)


@pytest.fixture(scope="module")
def crashed(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashed]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "BACKOFF_S", (0.05, 0.05))
        yield run(crash(kafka, f"t{uuid.uuid4().hex[:10]}-", tmp_path_factory.mktemp("crash")))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("worker", STEPS)
def test_a_worker_dies_before_and_after_every_step_of_its_transaction(crashed: Crashed, worker: str) -> None:
    assert sorted(crashed.fired[worker]) == sorted(points(worker)), f"seed {SEED}"
    assert crashed.starts[worker] == len(points(worker)) + 1, f"seed {SEED}: it died otherwise, too"


@pytest.mark.timeout(900)
def test_whatever_step_a_worker_died_at_every_image_has_one_outcome(crashed: Crashed) -> None:
    crashed.end.require_exactly_right()
