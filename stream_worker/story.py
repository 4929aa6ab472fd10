"""An image's whole story, told by the topics: what happened to it, when, and where. `stream-worker show IMAGE_ID`.

Everything is read from the topics as they are now, committed records only; nobody's offsets move. What we write of an
image has its id as its key, and so lies in one partition of each topic. Its own event is looked for in all partitions
of `images`: clients of other languages choose by other hashes (librdkafka by CRC32). So are its objects' events, keyed
by their own ids, and its dead letters, from its first event on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from aiokafka import ConsumerRecord
from aiokafka.partitioner import murmur2

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.dead_letters import PREFIX
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.events import (
    CompletedImageEvent,
    DetectionEvent,
    Failure,
    ImageEvent,
    ObjectEvent,
    ReconstructionEvent,
)
from stream_worker.images.urls import safe_url
from stream_worker.reading import Passed, Progress, Span, TopicReader
from stream_worker.settings import Settings

OURS = (topics.DETECTIONS, topics.RECONSTRUCTIONS, topics.COMPLETED)
"""Written by us, keyed by image_id."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """One record of the story."""

    at: datetime
    run: str
    what: str
    """`published`, `found`, `handed out`, `reconstructed`, `completed`, `gave up`..."""
    subject: str
    """The image, or the object's number and label."""
    worker: str
    """Who wrote it."""
    detail: str
    times: dict[str, float]
    """Seconds, phase by phase."""
    topic: str
    partition: int
    offset: int

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "at": self.at.isoformat()}


async def story(
    settings: Settings, image_id: str, *, since: datetime | None = None, progress: Progress = lambda *_: None
) -> list[Chapter]:
    """All that the topics say of an image, in the order of time; with `since`, only what was written then or later.

    Raises UserError, one line, where the broker is away, a topic is missing, or nothing is known of the image.
    """
    counts = await topics.counts(settings.kafka)
    every = (topics.IMAGES, *OURS, topics.OBJECTS, topics.DEAD_LETTERS)
    if missing := [topic for topic in every if topic not in counts]:
        raise UserError(f"topic {settings.kafka.prefix}{missing[0]} is missing: nothing to show", Exit.TOPICS)
    key = image_id.encode()
    chapters: list[Chapter] = []
    passed = Passed(progress)
    async with TopicReader(settings.kafka, passed=passed) as reader:

        async def read(topic: str, spans: Sequence[Span]) -> None:
            passed.expect(topic, spans)
            async for record in reader.records(spans):
                if _is_of(record, topic, key, image_id):
                    chapters.append(_chapter(record, topic))

        for topic in (topics.IMAGES, *OURS):
            spans = await reader.spans(settings.kafka.prefix + topic, counts[topic], since=since)
            await read(topic, [_home(spans, key)] if topic in OURS else spans)
        first = min((chapter.at for chapter in chapters), default=since)
        for topic in (topics.OBJECTS, topics.DEAD_LETTERS):
            spans = await reader.spans(settings.kafka.prefix + topic, counts[topic], since=first)
            await read(topic, spans)
    if not chapters:
        raise UserError(f"the topics know nothing of an image {image_id!r}", Exit.FAILED)
    return sorted(chapters, key=lambda chapter: chapter.at)


def _home(spans: Sequence[Span], key: bytes) -> Span:
    """The partition that a key belongs to, as Kafka's own clients choose it."""
    number = (murmur2(key) & 0x7FFFFFFF) % len(spans)
    return next(span for span in spans if span.partition.partition == number)


def _is_of(record: ConsumerRecord, topic: str, key: bytes, image_id: str) -> bool:
    if record.key == key:
        return True
    if topic not in (topics.OBJECTS, topics.DEAD_LETTERS) or not record.value or key not in record.value:
        return False
    with suppress(RecordFault):
        return decode(ObjectEvent, record.value).image_id == image_id
    return False


def _chapter(record: ConsumerRecord, topic: str) -> Chapter:
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}
    written = datetime.fromtimestamp(record.timestamp / 1000, UTC)
    told = _letter(headers) if topic == topics.DEAD_LETTERS else _told(topic, record.value)
    return Chapter(
        at=told.pop("at", None) or written,
        run=told.pop("run", ""),
        what=told.pop("what"),
        subject=told.pop("subject", "image"),
        worker=told.pop("worker", headers.get("ce_source", "").removeprefix("stream_worker/")),
        detail=told.pop("detail", ""),
        times=told.pop("times", {}),
        topic=topic,
        partition=record.partition,
        offset=record.offset,
    )


def _told(topic: str, value: bytes | None) -> dict[str, Any]:
    """What an event tells; of one that can't be read, that."""
    try:
        return _TELLERS[topic](value)
    except RecordFault as fault:
        return {"what": "can't be read", "detail": f"{fault.reason.value}: {fault.message}"}


def _published(value: bytes | None) -> dict[str, Any]:
    event = decode(ImageEvent, value)
    return {"at": event.published_at, "run": event.run, "what": "published", "detail": safe_url(event.url)}


def _found(value: bytes | None) -> dict[str, Any]:
    event = decode(DetectionEvent, value)
    labels = ", ".join(one.label for one in event.objects) or "no objects"
    failed = event.status == "failed"
    found = f"{len(event.objects)}: " if event.objects else ""
    taken = f", taken over from run {event.replay_of}" if event.replay_of else ""
    return {
        "at": event.detected_at,
        "run": event.run,
        "what": "failed" if failed else "found",
        "detail": _why(event.reason) if failed else f"{found}{labels}{taken}",
        "times": event.times,
    }


def _handed_out(value: bytes | None) -> dict[str, Any]:
    event = decode(ObjectEvent, value)
    return {
        "at": event.detected_at,
        "run": event.run,
        "what": "handed out",
        "subject": f"#{event.index} {event.label}",
        "detail": f"confidence {event.confidence:.2f}, {event.area_px} pixels",
    }


def _reconstructed(value: bytes | None) -> dict[str, Any]:
    event = decode(ReconstructionEvent, value)
    good = event.status == "reconstructed"
    parts = [
        event.model.name if event.model else "",
        f"on {event.device}" if event.device else "",
        "found again, no GPU time spent" if event.reused else "",
        f"{event.peak_gpu_bytes / 2**30:.1f} GiB of GPU memory at most" if event.peak_gpu_bytes else "",
    ]
    return {
        "at": event.reconstructed_at,
        "run": event.run,
        "what": event.status,
        "subject": f"#{event.index} {event.label}",
        "detail": ", ".join(part for part in parts if part) if good else _why(event.reason),
        "times": event.times,
    }


def _completed(value: bytes | None) -> dict[str, Any]:
    event = decode(CompletedImageEvent, value)
    lost = [f"#{one.index} {one.status}" for one in event.objects if one.status != "reconstructed"]
    detail = f"{event.status}, revision {event.revision}"
    return {
        "at": event.completed_at,
        "run": event.run,
        "what": "completed",
        "detail": "; ".join([detail, *lost, *([_why(event.reason)] if event.reason else [])]),
        "times": event.times,
    }


def _letter(headers: Mapping[str, str]) -> dict[str, Any]:
    said = {name: headers.get(PREFIX + name, "?") for name in ("topic", "stage", "reason", "message", "attempts")}
    return {
        "what": "dead letter",
        "worker": said["stage"],
        "detail": f"{said['reason']} after {said['attempts']} attempts, from {said['topic']}: {said['message']}",
    }


_TELLERS: dict[str, Callable[[bytes | None], dict[str, Any]]] = {
    topics.IMAGES: _published,
    topics.DETECTIONS: _found,
    topics.OBJECTS: _handed_out,
    topics.RECONSTRUCTIONS: _reconstructed,
    topics.COMPLETED: _completed,
}


def _why(reason: Failure | None) -> str:
    return f"{reason.code}: {reason.message}" if reason else ""


def lines(chapters: Sequence[Chapter]) -> Iterator[tuple[str, ...]]:
    """The rows of a table: the moment, seconds since the first, run, what, subject, worker, detail, times."""
    began = chapters[0].at
    for one in chapters:
        times = " ".join(f"{name} {seconds:.2f}" for name, seconds in one.times.items())
        since = f"{(one.at - began).total_seconds():.2f}"
        yield f"{one.at:%H:%M:%S}", since, one.run, one.what, one.subject, one.worker, one.detail, times
