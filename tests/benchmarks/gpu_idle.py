"""How long the model waits between two objects, with a backlog: the overlap of fetch, work, upload and commit.

`python -m tests.benchmarks.gpu_idle`: a real reconstructor process on a private Kafka, a photo of 1024 x 768 for each
object, a model that takes 0.5 s and answers with a PLY of 300,000 Gaussians (20 MB). Prints the idle share of an
object's time, the median of all gaps; exit code 1 where it is above 2 %.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import json
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
from aiokafka import AIOKafkaProducer
from PIL import Image

from stream_worker import topics
from stream_worker.contract import encode
from stream_worker.local_kafka import LocalKafka
from stream_worker.settings import Kafka, Local, Log, Settings, Up
from stream_worker.settings import Reconstructor as ReconstructorSettings
from stream_worker.store import open_store
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.benchmarks.objects import object_event
from tests.benchmarks.slow_model import SECONDS

WIDTH, HEIGHT = 1024, 768
WANTED = 0.02


async def send(settings: Settings, objects: int) -> None:
    """That many objects, each on a photo of its own."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await producer.start()
    async with open_store(settings) as store:
        for number in range(objects):
            shade = np.full((HEIGHT, WIDTH, 3), number % 256, np.uint8)
            file = io.BytesIO()
            Image.fromarray(shade).save(file, "JPEG")
            blob = await store.put_content("images", file.getvalue(), "image/jpeg")
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[100 + number : 400, 200:700] = True
            event = object_event(number, blob, mask)
            await producer.send_and_wait(settings.kafka.prefix + topics.OBJECTS, encode(event), partition=0)
    await producer.stop()


def worked(log: Path) -> list[tuple[float, float]]:
    """When the model worked, from its own words in the worker's log."""
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    said = (str(line.get("line", "")) for line in lines)
    spans = [line.split()[1:] for line in said if line.startswith("worked ")]
    return [(float(began), float(ended)) for began, ended in spans]


async def measure(objects: int, gaussians: int) -> float:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-idle-")))
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        settings = Settings(
            kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, partitions=1),
            local=Local(data_dir=folder),
            reconstructor=ReconstructorSettings(
                model="tests.benchmarks.slow_model:Slow", threads=1, max_gaussians=gaussians
            ),
            up=Up(detectors=0, reconstructors=1, aggregators=0),
            log=Log(format="json"),
        )
        await topics.create(settings.kafka)
        await send(settings, objects)
        supervisor = await stack.enter_async_context(Supervisor(settings, plan(settings, []), folder / "logs"))
        await supervisor.ready(120)
        log = folder / "logs" / "reconstructor-0.log"
        async with asyncio.timeout(60 + 4 * objects * SECONDS):
            while len(spans := worked(log)) < objects:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(1)
    gaps = [later[0] - sooner[1] for sooner, later in itertools.pairwise(spans[2:])]  # the first two only fill the pipe
    shares = [
        gap / (later[0] - sooner[0]) for gap, (sooner, later) in zip(gaps, itertools.pairwise(spans[2:]), strict=True)
    ]
    share = statistics.median(shares)
    print(f"{objects} objects of {SECONDS} s and {gaussians} Gaussians, each on a photo of its own, one lane")
    print(
        f"idle between two objects: median {1000 * statistics.median(gaps):.1f} ms, "
        f"{1000 * min(gaps):.1f} to {1000 * max(gaps):.1f} ms: {share:.1%} of an object's time"
    )
    return share


def main() -> int:
    """Measure once, print it, and say by the exit code whether it is enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=60)
    parser.add_argument("--gaussians", type=int, default=300_000)
    told = parser.parse_args()
    return 0 if asyncio.run(measure(told.objects, told.gaussians)) <= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
