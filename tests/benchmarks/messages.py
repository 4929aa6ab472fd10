"""Records for benchmarks of the message paths: as the service writes them, with no photo and no model behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_worker import topics
from stream_worker.contract import encode
from stream_worker.events import (
    DetectedObject,
    DetectionEvent,
    ImageEvent,
    Model,
    PhotoRef,
    object_id,
    utc_now,
)
from stream_worker.lag import committed
from stream_worker.settings import Kafka
from tests.benchmarks.figures import Seen
from tests.unit.aggregator import examples

Record = tuple[bytes, bytes]
"""Key and value."""

PHOTO = PhotoRef(
    key="images/" + "a" * 64, sha256="a" * 64, size=400_000, media_type="image/jpeg", width=1280, height=960
)
DEADLINE = timedelta(days=1)
LOOK_S = 0.05
PATIENCE_S = 120.0


def image(number: int) -> Record:
    """An event of the topic `images`."""
    event = ImageEvent(image_id=f"image-{number}", url=f"https://example.com/{number}.jpg", published_at=utc_now())
    return event.image_id.encode(), encode(event)


def manifest(number: int, objects: int) -> Record:
    """An event of the topic `detections`, with so many objects."""
    name, now = f"image-{number}", utc_now()
    event = DetectionEvent(
        image_id=name,
        run="live",
        status="detected",
        image=PHOTO,
        objects=[
            DetectedObject(
                object_id=object_id(name, "live", index),
                index=index,
                label="sofa",
                confidence=round(0.9 - index / 100, 2),
                box=[1.5, 2.5, 30.25, 40.125],
            )
            for index in range(objects)
        ],
        detector=Model(name="none", version="1"),
        published_at=now,
        detected_at=now,
        deadline_at=now + DEADLINE,
        times={"queue": 0.0123, "fetch": 0.0456, "decode": 0.0789, "store": 0.0012, "detect": 0.0345},
    )
    return name.encode(), encode(event)


def result(number: int, index: int) -> Record:
    """An event of the topic `reconstructions`: this object of the image, reconstructed."""
    name, now = f"image-{number}", utc_now()
    moments = {"published_at": now, "reconstructed_at": now, "deadline_at": now + DEADLINE}
    times = {"queue": 0.0123, "wait": 0.0045, "reconstruct": 7.0123, "store": 0.0345}
    event = examples.result(index, name).model_copy(update={**moments, "times": times})
    return name.encode(), encode(event)


async def write(kafka: Kafka, records: Iterable[tuple[str, Record]]) -> None:
    """Write records to topics (logical names), where their keys lead them, and wait until the broker has them all."""
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, linger_ms=20, max_batch_size=256 * 1024
    ) as producer:
        sent: list[asyncio.Future[object]] = []
        for topic, (key, value) in records:
            sent.append(await producer.send(kafka.prefix + topic, value, key))
            if len(sent) == 5000:
                await asyncio.gather(*sent)
                sent.clear()
        await asyncio.gather(*sent)


async def watched(kafka: Kafka, group: str, inputs: Sequence[str], total: int, *, within_s: float) -> list[Seen]:
    """What the group (its full name) had committed of its input topics, look by look, until that was `total`.

    Judged from outside, by the offsets that the broker has, whoever does the work.
    """
    loop = asyncio.get_running_loop()
    names = [kafka.prefix + topic for topic in inputs]
    sources = [TopicPartition(name, partition) for name in names for partition in range(kafka.partitions)]
    seen: list[Seen] = []
    async with (
        topics.admin(kafka) as admin,
        AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers) as consumer,
        asyncio.timeout(within_s),
    ):
        while not seen or seen[-1].done < total:
            done = await committed(admin, consumer, group, sources)
            seen.append(Seen(loop.time(), sum(done.values())))
            await asyncio.sleep(LOOK_S)
    return seen


async def forget(kafka: Kafka) -> None:
    """Delete all topics with this prefix, and those that others have named after them."""
    async with topics.admin(kafka) as admin:
        there = [name for name in await admin.list_topics() if kafka.prefix in name]
        if there:
            await admin.delete_topics(there)
