"""An audit from beginning to end: topics and store in, a report out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

from aiokafka import ConsumerRecord, TopicPartition

from stream_worker import topics
from stream_worker.audit.blobs import BlobCheck
from stream_worker.audit.findings import Example, Findings, Kind, Report
from stream_worker.audit.ledger import SKEW_MS, Ledger, Scope
from stream_worker.contract import decode
from stream_worker.dead_letters import PREFIX
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.events import (
    BlobRef,
    CompletedImageEvent,
    DetectionEvent,
    ImageEvent,
    ReconstructionEvent,
    utc_now,
)
from stream_worker.reading import Passed, Progress, Span, TopicReader
from stream_worker.settings import Kafka, Settings
from stream_worker.store import open_store
from stream_worker.window import Window

BACKWARDS = (topics.COMPLETED, topics.RECONSTRUCTIONS, topics.DETECTIONS, topics.DEAD_LETTERS, topics.IMAGES)
"""The ends of the topics are taken against the stream: of every outcome that is seen, all that led to it is too."""

_JOINED = (topics.DETECTIONS, topics.RECONSTRUCTIONS, topics.COMPLETED)


async def audit(
    settings: Settings,
    window: Window | None = None,
    *,
    quick: bool = False,
    drained: bool = False,
    settle_s: float = 60.0,
    progress: Progress = lambda *_: None,
) -> Report:
    """Read what the topics hold now and the blobs that it references, and report which guarantees hold.

    `quick` checks that blobs are there with their size, without reading them. `drained`: the service is said to have
    finished everything, so an image without an outcome is missing whatever its deadline. Otherwise what should have
    happened less than `settle_s` ago may still be on its way.

    Raises UserError, one line, where broker, topics or store are missing or go away.
    """
    started = time.monotonic()
    window = window or Window()
    counts = await _partitions(settings.kafka)
    passed = Passed(progress, phase=topics.IMAGES)
    findings = Findings()
    # An audit changes nothing: a bucket that is missing stays missing.
    read_only = settings.model_copy(update={"store": settings.store.model_copy(update={"create_bucket": False})})
    async with AsyncExitStack() as stack:
        blobs = BlobCheck(await stack.enter_async_context(open_store(read_only)), findings, quick=quick)
        stack.push_async_callback(blobs.cancel)
        reader = await stack.enter_async_context(TopicReader(settings.kafka, passed=passed))
        cut = utc_now()
        spans = {name: await _spans(reader, settings.kafka, name, counts[name], window) for name in BACKWARDS}
        read = [*spans.values(), spans[topics.DETECTIONS]]  # manifests twice: some of them ask for images
        passed.total = sum(max(0, span.end - span.start) for some in read for span in some)
        scope = Scope(
            cut_ms=round(cut.timestamp() * 1000),
            settle_ms=int(1000 * settle_s),
            grace_ms=int(1000 * settings.aggregator.grace_s),
            deadline_s=settings.aggregator.deadline_s,
            since_ms=round(window.since.timestamp() * 1000) if window.since else None,
            all_images=window.whole and all(span.whole for span in spans[topics.IMAGES]),
            all_manifests=all(span.first == 0 or span.start > span.first for span in spans[topics.DETECTIONS]),
            all_results=all(span.first == 0 or span.start > span.first for span in spans[topics.RECONSTRUCTIONS]),
            drained=drained,
        )
        reading = _Reading(Ledger(scope, findings), blobs, settings.kafka.prefix, every_blob=window.whole)
        async for record in reader.records(spans[topics.IMAGES]):
            reading.image(record)
        passed.phase = topics.DETECTIONS
        async for record in reader.records(spans[topics.DETECTIONS]):
            reading.replay(record, window)
        passed.phase = topics.DEAD_LETTERS
        async for record in reader.records(spans[topics.DEAD_LETTERS]):
            reading.dead_letter(record)
        for lane in _lanes([spans[name] for name in _JOINED]):
            passed.phase = f"lane {lane[0].partition.partition}"
            async for record in reader.records(lane):
                await reading.joined(record)
        reading.ledger.close()
        passed.tell("blobs", passed.total, passed.total)
        await blobs.finish()
        await _name(findings, reader, settings.kafka)
        if window.whole and all(span.whole for name in _JOINED for span in spans[name]):
            passed.tell("unreferenced blobs", passed.total, passed.total)
            await blobs.unreferenced(before=cut)
    return Report(
        at=cut,
        since=window.since,
        until=window.until,
        quick=quick,
        images=reading.ledger.images,
        blobs=blobs.counts,
        findings=findings,
        dead_letters=reading.ledger.dead_letters,
        took_s=time.monotonic() - started,
    )


async def _partitions(kafka: Kafka) -> dict[str, int]:
    there = await topics.counts(kafka)
    missing = [kafka.prefix + name for name in BACKWARDS if name not in there]
    if missing:
        raise UserError(f"topic {missing[0]} is missing: there is nothing to audit", Exit.TOPICS)
    return there


async def _spans(reader: TopicReader, kafka: Kafka, name: str, partitions: int, window: Window) -> list[Span]:
    """What is read of a topic: image events of the window, and all that may have come of them."""
    if name == topics.IMAGES:
        return await reader.spans(kafka.prefix + name, partitions, since=window.since, until=window.until)
    since = None
    # An image that is published again may have had its outcome before the window: all outcomes are read.
    if window.since is not None and name != topics.COMPLETED:
        since = window.since - timedelta(milliseconds=SKEW_MS)
    return await reader.spans(kafka.prefix + name, partitions, since=since)


def _lanes(joined: Sequence[Sequence[Span]]) -> Iterable[list[Span]]:
    """What is read together. An image's events have the same partition number where the counts are equal.

    That only bounds how much is read ahead at a time: what is held of an image is held from lane to lane.
    """
    if len({len(spans) for spans in joined}) == 1:
        return [list(lane) for lane in zip(*joined, strict=True)]
    return [[span for spans in joined for span in spans]]


class _Reading:
    """Records in, entries of the books and blobs to check out."""

    def __init__(self, ledger: Ledger, blobs: BlobCheck, prefix: str, *, every_blob: bool) -> None:
        self.ledger = ledger
        self._blobs = blobs
        self._prefix = prefix
        self._every_blob = every_blob

    def image(self, record: ConsumerRecord) -> None:
        """A record of `images`."""
        try:
            event = decode(ImageEvent, record.value)
        except RecordFault:
            self.ledger.refused(record.timestamp, record.partition, record.offset)
            return
        self.ledger.accepted(event, record.timestamp, record.partition, record.offset)

    def replay(self, record: ConsumerRecord, window: Window) -> None:
        """A record of `detections`, if a replay wrote it within the window."""
        if b'"replay_of"' not in (record.value or b"") or not window.has(record.timestamp):
            return
        try:
            event = decode(DetectionEvent, record.value)
        except RecordFault:
            return  # to be said when all of them are read
        if event.replay_of is not None:
            self.ledger.replayed(event, record.partition, record.offset)

    def dead_letter(self, record: ConsumerRecord) -> None:
        """A record of `dead-letters`. Of headers that came twice, the last are ours."""
        why = {name.removeprefix(PREFIX): value for name, value in record.headers if name.startswith(PREFIX)}
        try:
            topic, reason = why["topic"].decode(), why["reason"].decode()
            self.ledger.dead_letter(topic, reason, int(why["partition"]), int(why["offset"]))
        except (KeyError, ValueError):
            self._invalid(record, "a dead letter without the headers that say why")

    async def joined(self, record: ConsumerRecord) -> None:
        """A record of what the join reads or writes."""
        name = record.topic.removeprefix(self._prefix)
        if name == topics.COMPLETED and record.value is None:
            return  # a tombstone: somebody has the topic forget an image
        books, at_ms = self.ledger, record.timestamp
        books.let_go(at_ms)
        event: DetectionEvent | ReconstructionEvent | CompletedImageEvent
        refs: list[BlobRef | None]
        try:
            if name == topics.DETECTIONS:
                event = decode(DetectionEvent, record.value)
                judged, refs = books.manifest(event, at_ms), [event.image]
            elif name == topics.RECONSTRUCTIONS:
                event = decode(ReconstructionEvent, record.value)
                judged, refs = books.result(event, at_ms), [event.ply, event.glb, event.points]
            else:
                event = decode(CompletedImageEvent, record.value)
                blobs = (ref for one in event.objects for ref in (one.ply, one.glb, one.points))
                judged, refs = books.outcome(event, at_ms), [event.image, *blobs]
        except RecordFault as fault:
            self._invalid(record, fault.message)
            return
        if judged or self._every_blob:
            await self._blobs.check((ref for ref in refs if ref is not None), event.image_id, event.run)

    def _invalid(self, record: ConsumerRecord, why: str) -> None:
        place = f"{record.topic}-{record.partition}, offset {record.offset}"
        self.ledger.findings.add(Kind.INVALID_EVENT, Example(f"{place}: {why}"))


async def _name(findings: Findings, reader: TopicReader, kafka: Kafka) -> None:
    """Read the names of examples of which only the place is known of the event that asked for the image."""
    for example in (one for some in findings.examples.values() for one in some):
        if example.place is None:
            continue
        topic, partition, offset = example.place
        record = await reader.record(TopicPartition(kafka.prefix + topic, partition), offset)
        if record is not None:
            asked: type[ImageEvent] | type[DetectionEvent] = ImageEvent if topic == topics.IMAGES else DetectionEvent
            event = decode(asked, record.value)
            example.image_id, example.run = event.image_id, event.run
