"""What live images feel of a replay that goes on beside them.

`python -m tests.benchmarks.replay_latency`: a detector, two reconstructors with a stub model of a given time an object,
and an aggregator, real processes on a private Kafka. Photos come at random (a Poisson process, with half of the load
that the reconstructors can bear), three times at the same moments: alone; while those of before are replayed, their
results computed again; and while they are replayed with many on their way. Prints publish to completed event of live
images, and the images that the replay did meanwhile; exit code 1 where its 99th percentile is over 1.5 times that of
live images alone.
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
from dataclasses import dataclass
from pathlib import Path

from stream_worker import topics
from stream_worker.errors import UserError
from stream_worker.local_kafka import LocalKafka
from stream_worker.publish import Publisher
from stream_worker.replay.selection import Selection
from stream_worker.replay.send import replay
from stream_worker.results import Results
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Reconstructor, Settings, Up
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.photo_server import serving
from tests.stubs import photo

WANTED = 1.5
GPUS = 2
OBJECTS = 3
LOAD = 0.5
MANY = 32
READY_S = 120.0
LAST_S = 120.0


@dataclass(frozen=True, slots=True)
class Felt:
    """Seconds from publishing to the completed event of live images, and what a replay did meanwhile."""

    live: list[float]
    replayed: int

    def quantile(self, percent: int) -> float:
        return statistics.quantiles(self.live, n=100, method="inclusive")[percent - 1]


def moments(count: int, per_second: float, seed: int) -> list[float]:
    """Seconds at which photos come."""
    numbers = random.Random(seed)
    now, found = 0.0, []
    for _ in range(count):
        now += numbers.expovariate(per_second)
        found.append(now)
    return found


async def live(
    settings: Settings, base: str, name: str, at: list[float], beside: str | None, ahead: int | None
) -> Felt:
    """Photos at these moments; with `beside`, all photos of before are replayed as that run meanwhile."""
    waiting = {f"{name}-{number}" for number in range(len(at))}
    took: list[float] = []
    replayed = 0
    async with Results(settings) as results, Publisher(settings) as publisher:
        replaying = None
        if beside is not None:
            work = replay(settings, Selection(), beside, ahead=ahead, recompute=True)
            replaying = asyncio.create_task(work)
            await asyncio.sleep(5)

        async def outcomes() -> None:
            nonlocal replayed
            async for image in results:
                if image.run == beside:
                    replayed += 1
                elif image.image_id in waiting:
                    waiting.discard(image.image_id)
                    took.append((image.completed_at - image.published_at).total_seconds())
                    if not waiting:
                        return

        watching = asyncio.create_task(outcomes())
        began = time.monotonic()
        for number, moment in enumerate(at):
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            await publisher.publish(f"{base}/{name}-{number}", image_id=f"{name}-{number}")
        await asyncio.wait_for(watching, LAST_S)
        if replaying is not None:
            if replaying.done():
                replaying.result()
                raise UserError("the replay ended before the live photos: give it more to do")
            replaying.cancel()
            await asyncio.gather(replaying, return_exceptions=True)
    return Felt(took, replayed)


async def drained(settings: Settings) -> None:
    """Wait until nothing has been completed for a while."""
    async with Results(settings) as results:
        while True:
            try:
                await asyncio.wait_for(anext(results), 10)
            except TimeoutError:
                return


async def measure(told: argparse.Namespace) -> int:
    """The three, one after the other."""
    at = moments(told.images, LOAD * GPUS / (OBJECTS * told.object_ms / 1000), told.seed)
    numbers = iter(range(2**16))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-replay-")))
        photos: dict[str, bytes] = {}

        def answer(path: str) -> tuple[int, str, bytes]:
            if path not in photos:
                photos[path] = photo(next(numbers), OBJECTS, object_ms=told.object_ms)
            return 200, "image/png", photos[path]

        base = stack.enter_context(serving(answer))
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        settings = Settings(
            kafka=Kafka(bootstrap_servers=broker.bootstrap_servers),
            local=Local(data_dir=folder / "data"),
            images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
            detector=Detector(model="tests.stubs:Scripted", threads=1),
            reconstructor=Reconstructor(model="tests.stubs:ScriptedDots", threads=1),
            up=Up(detectors=1, reconstructors=GPUS, aggregators=1),
            log=Log(format="json", level="warning"),
        )
        await topics.create(settings.kafka)
        supervisor = await stack.enter_async_context(Supervisor(settings, plan(settings, []), folder / "logs"))
        await supervisor.ready(READY_S)
        await live(settings, base, "warm", [0.1 * number for number in range(20)], None, None)
        alone = await live(settings, base, "alone", at, None, None)
        paced = await live(settings, base, "paced", at, "paced-replay", None)
        await drained(settings)
        many = await live(settings, base, "many", at, "many-replay", MANY)
    span = at[-1]
    print(f"{told.images} live photos in {span:.0f} s, {OBJECTS} objects of {told.object_ms} ms, {GPUS} reconstructors")
    print(f"of {GPUS * span / (OBJECTS * told.object_ms / 1000):.0f} images that they could do in that time\n")
    print("| | p50 s | p99 s | p99 / alone | images replayed meanwhile |\n|---|---|---|---|---|")
    for name, felt in (
        ("live photos alone", alone),
        ("beside a replay", paced),
        (f"beside one with --ahead {MANY}", many),
    ):
        ratio = felt.quantile(99) / alone.quantile(99)
        print(f"| {name} | {felt.quantile(50):.2f} | {felt.quantile(99):.2f} | {ratio:.2f} | {felt.replayed} |")
    return 0 if paced.quantile(99) <= WANTED * alone.quantile(99) else 1


def main() -> int:
    """Measure, print, and say by the exit code whether it is enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--object-ms", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20261125)
    return asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
