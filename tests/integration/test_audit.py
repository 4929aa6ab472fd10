"""The audit on a real broker and a real folder: each violation that is written by hand is found, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from stream_worker import contract, topics
from stream_worker.aggregator import outcome
from stream_worker.audit.findings import Kind, Report
from stream_worker.audit.run import audit
from stream_worker.dead_letters import dead_letter
from stream_worker.errors import Exit, Reason, RecordFault, UserError
from stream_worker.events import (
    BlobRef,
    CompletedImageEvent,
    DetectionEvent,
    Event,
    ImageEvent,
    PhotoRef,
    ReconstructionEvent,
    utc_now,
)
from stream_worker.publish import Publisher
from stream_worker.records import Received
from stream_worker.settings import Aggregator, Kafka, Local, Settings
from stream_worker.store import Store, open_store
from stream_worker.up import running
from stream_worker.window import Window
from tests.command import on, stream_worker
from tests.integration.test_pipeline import Reader, made_up, settings_for
from tests.photo_server import serving
from tests.unit.aggregator.examples import manifest, result

TOPIC = {
    ImageEvent: topics.IMAGES,
    DetectionEvent: topics.DETECTIONS,
    ReconstructionEvent: topics.RECONSTRUCTIONS,
    CompletedImageEvent: topics.COMPLETED,
}


@pytest.fixture
async def deployment(kafka: str, prefix: str, tmp_path: Path) -> Settings:
    """Topics of three partitions, an empty store, and no service."""
    settings = Settings(
        kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=3),
        local=Local(data_dir=tmp_path / "data"),
        aggregator=Aggregator(deadline_s=900),
    )
    await topics.create(settings.kafka)
    return settings


class Writer:
    """Writes by hand what the groups would write: whole transactions, and what has gone wrong."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, store: Store) -> None:
        self._prefix = settings.kafka.prefix
        self._producer = producer
        self._store = store

    async def write(self, *events: Event, abort: bool = False) -> None:
        """One transaction."""
        await self._producer.begin_transaction()
        for event in events:
            key = event.image_id.encode()  # type: ignore[attr-defined]
            await self._producer.send_and_wait(self._prefix + TOPIC[type(event)], contract.encode(event), key)
        await (self._producer.abort_transaction if abort else self._producer.commit_transaction)()

    async def raw(self, topic: str, value: bytes, **fields: object) -> Received:
        """Any bytes; where they lie."""
        async with self._producer.transaction():
            sent = await self._producer.send_and_wait(self._prefix + topic, value, b"key", **fields)
        return Received(topic, sent.partition, sent.offset, sent.timestamp, None, value)

    async def photo(self, image_id: str) -> PhotoRef:
        blob = await self._store.put_content("images", f"photo of {image_id}".encode(), "image/jpeg")
        return PhotoRef(**blob.model_dump(), width=640, height=480)

    async def ply(self, of: str) -> BlobRef:
        name = of.replace(" ", "-")
        await self._store.put(f"reconstructions/{name}/result.json", b"{}", "application/json")
        return await self._store.put_content(f"reconstructions/{name}", name.encode(), "application/x-ply", ".ply")

    async def work(
        self, image_id: str, count: int = 2
    ) -> tuple[DetectionEvent, list[ReconstructionEvent], CompletedImageEvent]:
        """What the groups make of an image with so many objects, with its blobs in the store."""
        named = manifest(count, image_id).model_copy(update={"image": await self.photo(image_id)})
        results = [
            result(index, image_id).model_copy(update={"ply": await self.ply(f"{image_id}-{index}")})
            for index in range(count)
        ]
        joined = outcome.joined("complete", 1, named, {one.object_id: one for one in results}, utc_now())
        return named, results, joined


@pytest.fixture
async def writer(deployment: Settings) -> AsyncIterator[Writer]:
    prefix = deployment.kafka.prefix
    producer = AIOKafkaProducer(
        bootstrap_servers=deployment.kafka.bootstrap_servers, transactional_id=f"{prefix}by-hand"
    )
    async with open_store(deployment) as store, producer:
        yield Writer(deployment, producer, store)


def image(image_id: str, **fields: object) -> ImageEvent:
    return ImageEvent(image_id=image_id, url="https://x.test/a.jpg", **fields)  # type: ignore[arg-type]


async def whole(writer: Writer, image_ids: Iterable[str]) -> None:
    """Images as they should be, each step a transaction of its own."""
    for number, image_id in enumerate(image_ids):
        named, results, joined = await writer.work(image_id, number % 4)
        await writer.write(image(image_id))
        await writer.write(named)
        for one in results:
            await writer.write(one)
        await writer.write(joined)


def kinds(report: Report) -> dict[Kind, int]:
    return dict(report.findings.counts)


async def drained(settings: Settings, **options: object) -> Report:
    return await audit(settings, drained=True, **options)  # type: ignore[arg-type]


async def test_what_is_whole_holds_and_what_was_aborted_is_not_seen(deployment: Settings, writer: Writer) -> None:
    await whole(writer, [f"photo-{number}" for number in range(12)])
    for number in range(4):  # the ends of the partitions are aborted records and markers
        _, _, joined = await writer.work(f"photo-{number}")
        await writer.write(joined, abort=True)
    told: list[tuple[str, int, int]] = []
    report = await drained(deployment, progress=lambda *news: told.append(news))
    assert kinds(report) == {}
    assert report.holds
    images = report.images
    assert (images.accepted, images.terminal, images.in_flight) == (12, 12, 0)
    assert report.blobs.referenced == 12 + sum(number % 4 for number in range(12))
    assert report.blobs.read_bytes > 0
    assert report.blobs.unreferenced == 0
    assert told[-1][1:] == (told[-1][2],) * 2


async def test_an_open_transaction_is_not_waited_for(deployment: Settings, writer: Writer) -> None:
    await whole(writer, ["photo"])
    other = AIOKafkaProducer(
        bootstrap_servers=deployment.kafka.bootstrap_servers, transactional_id=f"{deployment.kafka.prefix}open"
    )
    async with other:
        await other.begin_transaction()
        await other.send_and_wait(deployment.kafka.prefix + topics.COMPLETED, b"not yet", b"key", partition=0)
        report = await drained(deployment)
        await other.abort_transaction()
    assert report.holds


async def test_each_violation_is_found_and_named(deployment: Settings, writer: Writer) -> None:
    await whole(writer, ["fine-0", "fine-1", "fine-2"])
    cases: dict[str, tuple[Kind, list[Event]]] = {}

    named, results, joined = await writer.work("lost")
    cases["lost"] = Kind.MISSING, [named, *results]
    cases["never detected"] = Kind.MISSING, []
    named, results, joined = await writer.work("twice")
    cases["twice"] = Kind.DUPLICATED, [named, *results, joined, joined]
    named, results, joined = await writer.work("gap")
    cases["gap"] = Kind.REVISION_GAP, [named, *results, joined.model_copy(update={"revision": 2})]
    named, results, joined = await writer.work("no manifest")
    cases["no manifest"] = Kind.NO_MANIFEST, [joined]
    named, results, joined = await writer.work("too few", 3)
    cases["too few"] = Kind.OBJECTS_DIFFER, [named, *results, joined.model_copy(update={"objects": joined.objects[:2]})]
    named, results, joined = await writer.work("no result")
    cases["no result"] = Kind.STATUS_DIFFERS, [named, results[0], joined]
    named, results, joined = await writer.work("no reason")
    silent = joined.objects[0].model_copy(update={"status": "missing", "reason": None, "ply": None})
    partial = {"status": "partial", "objects": [silent, joined.objects[1]]}
    cases["no reason"] = Kind.UNEXPLAINED, [named, results[1], joined.model_copy(update=partial)]
    named, results, joined = await writer.work("again")
    cases["again"] = Kind.REPEATED, [named, named, *results, joined]
    named, results, joined = await writer.work("no blob", 1)
    (deployment.local.data_dir / "store" / results[0].ply.key).unlink()  # type: ignore[union-attr]
    cases["no blob"] = Kind.BLOB_MISSING, [named, *results, joined]
    named, results, joined = await writer.work("other bytes", 1)
    (deployment.local.data_dir / "store" / results[0].ply.key).write_bytes(b"other bytes-1")  # type: ignore[union-attr]
    cases["other bytes"] = Kind.BLOB_WRONG, [named, *results, joined]
    for image_id, (_, events) in cases.items():
        await writer.write(image(image_id), *events)
    named, results, joined = await writer.work("unasked", 1)
    await writer.write(named, *results, joined)
    cases["unasked"] = Kind.UNASKED, []

    report = await drained(deployment)
    assert Counter(kinds(report)) == Counter(kind for kind, _ in cases.values())
    said = {one.image_id: kind for kind, some in report.findings.examples.items() for one in some}
    assert said == {image_id: kind for image_id, (kind, _) in cases.items()}
    stuck = {one.image_id: one.detail for one in report.findings.examples[Kind.MISSING]}
    assert "a manifest, 2 of 2 results" in stuck["lost"]
    assert "no manifest" in stuck["never detected"]
    assert report.images.accepted == len(cases) - 1 + 3
    assert report.images.terminal == report.images.accepted - 2

    quick = kinds(await drained(deployment, quick=True))
    assert kinds(report).keys() - quick.keys() == {Kind.BLOB_WRONG}  # same size: only its sha256 tells


async def test_bytes_that_are_no_event(deployment: Settings, writer: Writer) -> None:
    """In `images` they are refused, if a dead letter says so; in topics of ours they are a violation."""
    junk = [await writer.raw(topics.IMAGES, b'{"image_id": "junk"}', partition=number) for number in range(3)]
    fault = RecordFault(Reason.INVALID_EVENT, "no url")
    for record in junk[:2]:
        letter = dead_letter(record, fault, "detector", 1, utc_now(), utc_now())
        await writer.raw(topics.DEAD_LETTERS, letter.value or b"", headers=list(letter.headers))
    report = await drained(deployment)
    assert kinds(report) == {Kind.SILENTLY_REFUSED: 1}
    assert f"images-{junk[2].partition}, offset {junk[2].offset}" in (
        report.findings.examples[Kind.SILENTLY_REFUSED][0].detail
    )
    assert (report.images.accepted, report.images.refused) == (0, 3)
    assert report.dead_letters == {topics.IMAGES: Counter({"invalid_event": 2})}

    for topic in (topics.DETECTIONS, topics.RECONSTRUCTIONS, topics.COMPLETED, topics.DEAD_LETTERS):
        await writer.raw(topic, b"junk", partition=0)
    assert kinds(await drained(deployment)) == {Kind.SILENTLY_REFUSED: 1, Kind.INVALID_EVENT: 4}


async def test_before_the_deadline_it_is_in_flight(deployment: Settings, writer: Writer) -> None:
    await writer.write(image("slow"))
    report = await audit(deployment)
    assert (report.holds, report.images.in_flight) == (True, 1)
    await writer.write(image("hasty", deadline_s=0.001))
    report = await audit(deployment, settle_s=-1)
    assert (kinds(report), report.images.in_flight) == ({Kind.MISSING: 1}, 1)


async def test_a_window_judges_what_was_accepted_in_it(deployment: Settings, writer: Writer) -> None:
    await writer.write(image("lost before"))
    await whole(writer, ["finished before"])
    start = await tick(writer)
    await writer.write(image("finished before"))
    await whole(writer, ["inside-0", "inside-1", "inside-2"])
    end = await tick(writer)
    await writer.write(image("lost after"))
    inside = await drained(deployment, window=Window(start, end))
    assert (kinds(inside), inside.images.accepted, inside.images.terminal) == ({}, 4 + 1, 4 + 1)
    assert inside.blobs.unreferenced is None
    until = await drained(deployment, window=Window(until=start))
    assert (kinds(until), until.images.accepted) == ({Kind.MISSING: 1}, 2)
    after = await drained(deployment, window=Window(since=end))
    assert [one.image_id for one in after.findings.examples[Kind.MISSING]] == ["lost after"]


async def tick(writer: Writer) -> datetime:
    """A moment between what was and what will be written, by the broker's clock: an image that is stamped with it."""
    name = uuid.uuid4().hex
    stamped = await writer.raw(topics.IMAGES, contract.encode(image(name)))
    named, results, joined = await writer.work(name)
    await writer.write(named, *results, joined)
    return datetime.fromtimestamp(stamped.timestamp_ms / 1000, UTC)


async def test_where_partitions_are_not_equally_many(deployment: Settings, writer: Writer) -> None:
    """An image's events are then on different partition numbers, and still found."""
    await whole(writer, [f"before-{number}" for number in range(4)])
    admin = AIOKafkaAdminClient(bootstrap_servers=deployment.kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_partitions({deployment.kafka.prefix + topics.COMPLETED: NewPartitions(5)})
    finally:
        await admin.close()
    report = await drained(deployment)
    assert (kinds(report), report.images.terminal) == ({}, 4)


async def test_what_nothing_references_is_told_when_it_is_old(deployment: Settings, writer: Writer) -> None:
    await whole(writer, ["photo-0", "photo-1"])
    old, young = await writer.photo("old"), await writer.photo("young")
    hours_ago = time.time() - 7200
    for file in (deployment.local.data_dir / "store").rglob("*"):
        if file.is_file() and file.name not in young.key:
            os.utime(file, (hours_ago, hours_ago))
    report = await drained(deployment)
    assert report.holds
    assert report.blobs.unreferenced_keys == [old.key]
    assert young.key not in report.blobs.unreferenced_keys


async def test_a_store_that_is_away_is_no_violation(deployment: Settings, writer: Writer) -> None:
    await whole(writer, ["photo-0"])
    file = deployment.local.data_dir / "file"
    file.write_bytes(b"")
    lost = deployment.model_copy(update={"store": deployment.store.model_copy(update={"url": str(file)})})
    with pytest.raises(UserError) as error:
        await drained(lost)
    assert error.value.exit_code == Exit.STORE


async def test_the_command(deployment: Settings, writer: Writer, kafka: str, tmp_path: Path) -> None:
    where = on(kafka, deployment.kafka.prefix)
    await whole(writer, ["photo-0", "photo-1"])

    async def run(*arguments: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(stream_worker, tmp_path, "audit", *arguments, **where)
        return done.returncode, done.stdout, done.stderr

    code, out, err = await run()
    assert (code, "All guarantees hold" in out) == (Exit.OK, True), err
    await writer.write(image("lost [red]\x1b[2J"))
    code, out, err = await run("--drained")
    assert (code, "lost [red]\ufffd[2J" in out, "1 violations" in out) == (Exit.FAILED, True, True), out + err
    code, out, err = await run("--drained", "--json", "--quick", "--from", "1h")
    assert code == Exit.FAILED, err
    report = json.loads(out)
    assert (report["holds"], report["images"]["accepted"], report["images"]["missing"]) == (False, 3, 1)
    assert report["violations"]["missing"]["examples"][0]["image_id"] == "lost [red]\x1b[2J"
    code, out, err = await run("--from", "tomorrow")
    assert (code, len(err.strip().splitlines())) == (Exit.USAGE, 1), err


def test_without_topics_there_is_nothing_to_audit(kafka: str, prefix: str, tmp_path: Path) -> None:
    done = stream_worker(tmp_path, "audit", **on(kafka, prefix))
    assert (done.returncode, f"{prefix}" in done.stderr) == (Exit.TOPICS, True), done.stderr


@pytest.mark.timeout(240)
async def test_the_service_itself_holds(kafka: str, prefix: str, tmp_path: Path) -> None:
    """Objects, none, a failure, a repeat, a second run, junk: what the groups write is in order."""
    with serving(lambda path: (404, "text/plain", b"no") if path == "/missing" else made_up(path)) as base:
        settings = settings_for(kafka, prefix, tmp_path, base, detectors=1, reconstructors=1, aggregators=1)
        async with (
            running(settings, on_progress=print, log_dir=tmp_path / "logs") as service,
            Publisher(service.settings) as publisher,
            Reader(service.settings) as reader,
            AIOKafkaProducer(bootstrap_servers=kafka) as producer,
        ):
            for image_id, path in {"three": "/1/3", "none": "/2/0", "lost": "/missing"}.items():
                await publisher.publish(f"{base}{path}", image_id=image_id)
            await producer.send_and_wait(prefix + topics.IMAGES, b"junk")
            await publisher.publish(f"{base}/1/3", image_id="three")
            await publisher.publish(f"{base}/1/3", image_id="three", run="again")
            await reader.until(4, within_s=120)
            during = await audit(service.settings)
        report = await drained(service.settings)
    assert (kinds(during), kinds(report)) == ({}, {}), (during.findings, report.findings)
    images = report.images
    assert (images.events, images.accepted, images.complete, images.failed, images.refused) == (5, 4, 3, 1, 1)
    assert report.dead_letters == {topics.IMAGES: Counter({"fetch_failed": 1, "invalid_event": 1})}
    assert report.blobs.referenced == 2 + 3
    assert report.blobs.unreferenced == 0
