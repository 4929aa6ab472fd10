"""Images a second of the whole detector stage, beside the bare network's and beside a plain loop's.

`python -m tests.benchmarks.detector` (`make bench-detector`): a detector process on a private Kafka and a local store,
with a backlog of JPEGs of 1280 x 960 that an HTTP server on loopback gives out; beside it, in the same run,

- bare: nothing but forward passes of the same network, in the same batches, before the stage and after it;
- loop: `model.predict(url)` for each record, then a commit.

Networks: the shipped one on rendered rooms, and one of the architecture yolo11l-seg with random weights, five objects
on each photo. `--silent` has a share of the URLs name a host that accepts and says nothing. Prints a table, with where
an image's time goes; exit code 1 where the large network's stage is below 0.85 of its bare forward.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.demo.photos import Room, render_rooms
from stream_worker.detector import weights as weights_of
from stream_worker.events import DetectionEvent
from stream_worker.local_kafka import LocalKafka
from stream_worker.publish import Publisher
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Settings, Up
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.faults.figures import Growth, growth
from tests.faults.memory import Memory
from tests.photo_server import serving_in_processes

ROOT = Path(__file__).parents[2]
LARGE = "yolo11l-seg"
WANTED = 0.85
PHOTOS = 36
WITHIN_S = 1800.0
READY_S = 300.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What the stage did, its first tenth left out."""

    images_s: float
    objects: float
    times: dict[str, float]
    memory: list[Growth]
    """Of each process that lived long enough."""


async def reference(*told: str, within_s: float = WITHIN_S, folder: Path = ROOT) -> dict[str, Any]:
    """What a process of `detector_references.py` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.detector_references", *told),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(within_s):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        sys.exit(f"detector_references {told[0]} ended with {process.returncode}")
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answer


async def publish(settings: Settings, urls: Sequence[str]) -> None:
    async with Publisher(settings) as publisher:
        for number, url in enumerate(urls):
            await publisher.publish(url, image_id=f"photo-{number}")


async def stage(settings: Settings, count: int, logs: Path) -> Stage:
    """Start a detector on a backlog, and wait for `count` manifests of photos that came."""
    manifests: list[DetectionEvent] = []
    async with (
        AIOKafkaConsumer(
            settings.kafka.prefix + topics.DETECTIONS,
            bootstrap_servers=settings.kafka.bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        ) as consumer,
        Supervisor(settings, plan(settings, []), logs) as supervisor,
        AsyncExitStack() as stack,
    ):
        await supervisor.ready(READY_S)
        memory = await stack.enter_async_context(Memory(supervisor.workers, time.monotonic()))
        async with asyncio.timeout(WITHIN_S):
            while len(manifests) < count:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found = (decode(DetectionEvent, record.value) for record in records)
                    manifests += [one for one in found if one.status == "detected"]
    moments = sorted(one.detected_at.timestamp() for one in manifests)
    skipped = len(moments) // 10
    phases = sorted({name for one in manifests for name in one.times} - {"queue"})
    return Stage(
        images_s=(len(moments) - 1 - skipped) / (moments[-1] - moments[skipped]),
        objects=statistics.mean(len(one.objects) for one in manifests),
        times={name: statistics.median(one.times.get(name, 0.0) for one in manifests) for name in phases},
        memory=growth(memory.lives),
    )


def port_of(url: str) -> int:
    """Of an http URL on loopback."""
    return int(urlsplit(url).port or 80)


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """The port of a host that accepts, and says nothing."""
    waiting: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: waiting.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in waiting:
            writer.close()


async def measure(told: argparse.Namespace) -> int:
    """One network."""
    large = told.network == LARGE
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-detector-")))
        rooms = render_rooms(folder / "photos", tuple(Room(f"{n}.jpg", n + 1, 1280, 960, 5) for n in range(PHOTOS)))
        photos = [str(path) for path in rooms.values()]
        bases = stack.enter_context(serving_in_processes(folder / "photos", told.servers))
        quiet = await stack.enter_async_context(silent())
        options: dict[str, Any] = {"image_size": 640, "iou": 0.7, "threads": told.threads, "device": told.device}
        if large:
            file = str(folder / f"{LARGE}.pt")
            found = await reference("weights", LARGE, file, *photos)
            options |= {"weights": file, "max_objects": 5, "confidence": found["confidence"]}
            photos = found["photos"]
            rooms = {name: path for name, path in rooms.items() if str(path) in photos}
        else:
            options |= {"weights": weights_of(Detector()), "max_objects": 64, "confidence": 0.25}
        for_bare = json.dumps({**options, "batch": told.batch})
        before = await reference("bare", for_bare, *photos)
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))

        def settings(prefix: str) -> Settings:
            return Settings(
                kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, prefix=prefix, partitions=6 * told.detectors),
                local=Local(data_dir=folder / "data"),
                images=Images(
                    allow_networks=[f"127.0.0.1/32:{port}" for port in [*map(port_of, bases), quiet]],
                    decoders=told.decoders,
                ),
                detector=Detector(**options, batch=told.batch),
                up=Up(detectors=told.detectors, reconstructors=0, aggregators=0),
                log=Log(format="json"),
            )

        def urls(count: int) -> list[str]:
            places = zip(range(count), itertools.cycle(bases), itertools.cycle(rooms), strict=False)
            return [f"{base}/{name}?{n}" for n, base, name in places]

        rows = []
        for share in [0.0, *([told.silent] if told.silent else [])]:
            chosen = settings(f"share-{share:g}-")
            await topics.create(chosen.kafka)
            all_urls = urls(told.images)
            every = round(1 / share) if share else len(all_urls) + 1
            mixed = [f"http://127.0.0.1:{quiet}/{n}" if n % every == every - 1 else u for n, u in enumerate(all_urls)]
            await publish(chosen, mixed)
            came = sum(port_of(url) != quiet for url in mixed)
            rows.append((share, await stage(chosen, came, folder / "logs")))
        after = await reference("bare", for_bare, *photos)
        looped = settings("loop-")
        await topics.create(looped.kafka)
        await publish(looped, urls(told.loop_images))
        (folder / "loop").mkdir()
        plain = await reference(
            *("loop", json.dumps(options), "loop-images", str(broker.bootstrap_servers), str(told.loop_images)),
            folder=folder / "loop",
        )
    forward = statistics.mean([before["images_s"], after["images_s"]])
    whole = rows[0][1]
    print(f"{told.network} on {told.device}, {told.threads} threads, batch {told.batch}, torch {before['torch']}")
    print(f"{told.detectors} detectors of {told.decoders} decoders, {told.servers} photo servers")
    print(f"{told.images} JPEGs of 1280 x 960, {whole.objects:.1f} objects on each\n")
    print("| | images/s |\n|---|---|")
    print(f"| bare forward, before and after | {before['images_s']:.2f}, {after['images_s']:.2f} |")
    print(f"| the stage | {whole.images_s:.2f} |")
    for share, other in rows[1:]:
        print(f"| the stage, {share:.1%} of the URLs at a silent host | {other.images_s:.2f} |")
    print(f"| plain loop | {plain['images_s']:.2f} |\n")
    beside = whole.images_s / forward, whole.images_s / plain["images_s"]
    print(f"stage / bare forward: **{beside[0]:.2f}**; stage / loop: {beside[1]:.1f}")
    for share, other in rows[1:]:
        print(f"a silent host of {share:.1%}: {1 - other.images_s / whole.images_s:.1%} of the throughput")
    for one in whole.memory:
        what = f"{one.worker}'s child" if one.child else one.worker
        print(f"memory of {what}, MiB: {one.second_mb:.0f} in its second quarter, {one.last_mb:.0f} in its last")
    print("an image's time, medians in ms: " + ", ".join(f"{n} {1000 * s:.1f}" for n, s in whole.times.items()))
    return 1 if large and whole.images_s < WANTED * forward else 0


def main() -> int:
    """Measure, print, and say by the exit code whether it is enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default=LARGE, choices=[LARGE, "rooms-seg"])
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--loop-images", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--detectors", type=int, default=1, help="processes of the group, all on the same device")
    parser.add_argument("--decoders", type=int, default=1, help="of each")
    parser.add_argument("--servers", type=int, default=1, help="processes that give out the photos")
    parser.add_argument("--silent", type=float, default=0.0, help="share of the URLs, in a further run of the stage")
    return asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
