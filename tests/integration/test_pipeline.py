"""The whole service as processes: what goes in comes out, exactly once, also when workers are killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import SecretStr

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.dead_letters import PREFIX
from stream_worker.events import CompletedImageEvent, object_id
from stream_worker.publish import Publisher
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Settings, Up
from stream_worker.settings import Stage as StageSettings
from stream_worker.settings import Store as StoreSettings
from stream_worker.store import open_store
from stream_worker.up import Running, running
from tests.photo_server import Answer, serving
from tests.servers.s3 import S3Server
from tests.stubs import Faulty, photo

SEED = 20261123
Expected = dict[str, tuple[str, frozenset[str]]]
"""image_id to status and object ids."""


def settings_for(kafka: str, prefix: str, folder: Path, base: str, **up: int) -> Settings:
    return Settings(
        kafka=Kafka(
            bootstrap_servers=kafka,
            prefix=prefix,
            partitions=6,
            session_timeout_ms=6000,
            rebalance_timeout_ms=15_000,
        ),
        local=Local(data_dir=folder),
        images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
        detector=Detector(model="tests.stubs:Faulty", threads=1, task_timeout_s=3),
        stage=StageSettings(drain_s=5, retry_delay_s=0.1, retries=1),
        up=Up(**up),
        log=Log(format="json"),
    )


class Reader:
    """Reads completed images as an app would: read_committed, from the beginning."""

    def __init__(self, settings: Settings) -> None:
        self.events: list[CompletedImageEvent] = []
        self._consumer = AIOKafkaConsumer(
            settings.kafka.prefix + topics.COMPLETED,
            bootstrap_servers=settings.kafka.bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )

    async def __aenter__(self) -> Reader:
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def until(self, count: int, within_s: float) -> None:
        """Read on until there are `count` events."""
        async with asyncio.timeout(within_s):
            while len(self.events) < count:
                await self._some()

    async def settled(self, seconds: float) -> None:
        """Read on for a while: whatever comes now is one too many."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            await self._some()

    async def _some(self) -> None:
        for records in (await self._consumer.getmany(timeout_ms=200)).values():
            self.events += [decode(CompletedImageEvent, record.value) for record in records]


def plan(count: int) -> tuple[dict[str, int], Expected]:
    """How many objects each image has, 0 to 12, and what must come of it."""
    numbers = random.Random(SEED)
    objects = {f"image-{number}": numbers.randint(0, 12) for number in range(count)}
    expected = {
        image_id: ("complete", frozenset(object_id(image_id, "live", index) for index in range(n)))
        for image_id, n in objects.items()
    }
    return objects, expected


def outcome(event: CompletedImageEvent) -> tuple[str, frozenset[str]]:
    return event.status, frozenset(one.object_id for one in event.objects)


def require_exactly(events: list[CompletedImageEvent], expected: Expected) -> None:
    assert Counter((e.image_id, e.run, e.revision) for e in events) == Counter((i, "live", 1) for i in expected)
    assert {event.image_id: outcome(event) for event in events} == expected


async def publish_all(service: Running, base: str, objects: dict[str, int]) -> None:
    async with Publisher(service.settings) as publisher:
        for number, image_id in enumerate(objects):
            await publisher.publish(f"{base}/{number}/{objects[image_id]}", image_id=image_id)


def made_up(path: str) -> Answer:
    _, number, objects = path.split("/")
    return 200, "image/png", photo(int(number), int(objects))


@pytest.mark.timeout(400)
async def test_two_hundred_images_come_out_once_each(kafka: str, prefix: str, tmp_path: Path) -> None:
    objects, expected = plan(200)
    with serving(made_up) as base:
        settings = settings_for(kafka, prefix, tmp_path, base, detectors=2, reconstructors=3, aggregators=2)
        async with running(settings, on_progress=print, log_dir=tmp_path / "logs") as service:
            await publish_all(service, base, objects)
            async with Reader(service.settings) as reader:
                await reader.until(len(expected), within_s=240)
                await reader.settled(3)
    require_exactly(reader.events, expected)


@pytest.mark.timeout(500)
async def test_sigkill_of_one_worker_of_each_group_half_way(kafka: str, prefix: str, tmp_path: Path) -> None:
    objects, expected = plan(200)
    with serving(made_up) as base:
        settings = settings_for(kafka, prefix, tmp_path, base, detectors=2, reconstructors=3, aggregators=2)
        async with running(settings, on_progress=print, log_dir=tmp_path / "logs") as service:
            async with Reader(service.settings) as reader:
                publishing = asyncio.create_task(publish_all(service, base, objects))
                for victim, at in (("detector-1", 40), ("reconstructor-2", 70), ("aggregator-0", 100)):
                    await reader.until(at, within_s=120)
                    worker = next(w for w in service.supervisor.workers if w.name == victim)
                    assert worker.pid is not None
                    os.kill(worker.pid, signal.SIGKILL)
                await publishing
                assert len(reader.events) < len(expected), "the kills came too late to prove anything"
                await reader.until(len(expected), within_s=240)
                await reader.settled(3)
            starts = {worker.name: worker.starts for worker in service.supervisor.workers}
    require_exactly(reader.events, expected)
    assert {name for name, count in starts.items() if count > 1} == {"detector-1", "reconstructor-2", "aggregator-0"}


@pytest.mark.timeout(300)
async def test_what_can_not_be_processed_completes_as_failed(kafka: str, prefix: str, tmp_path: Path) -> None:
    """Each fault costs one image, which is told why; the others are complete, and every bad record is kept."""

    def answer(path: str) -> Answer:
        if path == "/missing":
            return 404, "text/plain", b"no"
        if path == "/text":
            return 200, "image/png", b"<html>not a photo</html>"
        if path == "/cut":
            return 200, "image/png", photo(1, 1)[:60]
        return made_up(path)

    with serving(answer) as base:
        cases = {
            "missing": (f"{base}/missing", "fetch_failed"),
            "text": (f"{base}/text", "not_an_image"),
            "cut": (f"{base}/cut", "not_an_image"),
            "refused": (f"{base}/1/{Faulty.REFUSE}", "detect_failed"),
            "crash": (f"{base}/2/{Faulty.CRASH}", "model_crashed"),
            "hang": (f"{base}/3/{Faulty.HANG}", "model_timeout"),
            "private": ("http://127.0.0.2:9/photo.png", "url_refused"),
            "file": ("file:///etc/passwd", "url_refused"),
        }
        settings = settings_for(kafka, prefix, tmp_path, base, detectors=1, reconstructors=1, aggregators=1)
        async with running(settings, on_progress=print, log_dir=tmp_path / "logs") as service:
            producer = AIOKafkaProducer(bootstrap_servers=kafka)
            await producer.start()
            junk = b'{"image_id": "junk", "url": 7}'
            await producer.send_and_wait(prefix + topics.IMAGES, junk, key=b"junk")
            await producer.stop()
            async with Publisher(service.settings) as publisher, Reader(service.settings) as reader:
                for image_id, (url, _) in cases.items():
                    await publisher.publish(url, image_id=image_id, metadata={"case": image_id, "none": None})
                await publisher.publish(f"{base}/9/2", image_id="good")
                await publisher.publish(f"{base}/10/0", image_id="empty")
                await reader.until(len(cases) + 2, within_s=120)
                await reader.settled(2)
            letters = AIOKafkaConsumer(
                prefix + topics.DEAD_LETTERS, bootstrap_servers=kafka, auto_offset_reset="earliest"
            )
            await letters.start()
            kept = [r for records in (await letters.getmany(timeout_ms=3000)).values() for r in records]
            await letters.stop()
    found = {event.image_id: event for event in reader.events}
    assert len(reader.events) == len(cases) + 2
    for image_id, (_, reason) in cases.items():
        event = found[image_id]
        assert event.status == "failed"
        assert event.reason is not None
        assert event.reason.code == reason, event.reason
        assert event.metadata == {"case": image_id, "none": None}
    assert found["good"].status == "complete"
    assert len(found["good"].objects) == 2
    assert all(one.geometry and one.ply and one.geometry.volume > 0 for one in found["good"].objects)
    assert found["empty"].status == "complete"
    assert found["empty"].objects == []
    reasons = Counter(dict(record.headers)[PREFIX + "reason"].decode() for record in kept)
    assert reasons == Counter(["invalid_event", *(reason for _, reason in cases.values())])
    assert [r.value for r in kept if dict(r.headers)[PREFIX + "reason"] == b"invalid_event"] == [junk]


@pytest.mark.timeout(300)
async def test_the_same_work_is_not_done_twice(kafka: str, prefix: str, tmp_path: Path) -> None:
    """A second run of a photo reuses its results; a repeated publish of the same run gives no second outcome."""
    with serving(made_up) as base:
        settings = settings_for(kafka, prefix, tmp_path, base, detectors=1, reconstructors=1, aggregators=1)
        async with (
            running(settings, on_progress=print, log_dir=tmp_path / "logs") as service,
            Publisher(service.settings) as publisher,
            Reader(service.settings) as reader,
        ):
            await publisher.publish(f"{base}/5/3", image_id="twice")
            await reader.until(1, within_s=60)
            await publisher.publish(f"{base}/5/3", image_id="twice")
            await publisher.publish(f"{base}/5/3", image_id="twice", run="again")
            await reader.until(2, within_s=60)
            await reader.settled(3)
    first, again = reader.events
    assert (first.run, again.run) == ("live", "again")
    assert not any(one.reused for one in first.objects)
    assert all(one.reused for one in again.objects)
    assert [one.ply for one in first.objects] == [one.ply for one in again.objects]


@pytest.mark.timeout(300)
async def test_the_service_on_an_s3_server(kafka: str, prefix: str, tmp_path: Path, s3: S3Server, bucket: str) -> None:
    """Photos and results in a bucket instead of a folder: every reference leads to the bytes that it says."""
    with serving(made_up) as base:
        settings = settings_for(kafka, prefix, tmp_path, base, detectors=1, reconstructors=1, aggregators=1)
        where = StoreSettings(
            url=f"s3://{bucket}/objects",
            endpoint=s3.endpoint,
            access_key=s3.access_key,
            secret_key=SecretStr(s3.secret_key),
            secure=False,
        )
        asked = settings.reconstructor.model_copy(update={"points": True})
        settings = settings.model_copy(update={"store": where, "reconstructor": asked})
        async with (
            running(settings, on_progress=print, log_dir=tmp_path / "logs") as service,
            Publisher(service.settings) as publisher,
            Reader(service.settings) as reader,
        ):
            await publisher.publish(f"{base}/7/2", image_id="in a bucket")
            await reader.until(1, within_s=60)
    (event,) = reader.events
    assert event.status == "complete"
    assert event.image is not None
    async with open_store(settings) as store:
        assert await store.get(event.image) == photo(7, 2)
        for one in event.objects:
            assert one.ply is not None
            assert (await store.get(one.ply)).startswith(b"ply\n")
            assert one.points is not None
            assert b"property uchar red\n" in await store.get(one.points)
            assert one.glb is None
    assert not (tmp_path / "store").exists()
