"""Which images there are to do again, which of them this replay has sent already, and what they took before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from aiokafka import ConsumerRecord

from stream_worker import topics
from stream_worker.audit.digests import digest_of
from stream_worker.comparison import DETECTING, RECONSTRUCTING
from stream_worker.contract import decode
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.events import CompletedImageEvent, DetectionEvent, Event, ImageEvent, ObjectEvent
from stream_worker.reading import Passed, Progress, TopicReader
from stream_worker.replay.selection import Selection, Source
from stream_worker.settings import Settings
from stream_worker.window import Window

E = TypeVar("E", bound=Event)

Place = tuple[int, int]
"""Partition and offset."""


@dataclass(slots=True)
class Again:
    """An image to be done again, by the places of its events: the events themselves are read when they are due."""

    name: bytes
    """`digest_of` its image_id."""
    place: Place
    """In the source's topic."""
    objects: dict[int, Place] = field(default_factory=dict)
    """In topic `objects`, by index, where the source is `objects`."""
    count: int = 0
    """How many objects the manifest names."""


@dataclass(slots=True)
class Plan:
    """What a replay would do."""

    run: str
    source: Source = Source.IMAGES
    images: list[Again] = field(default_factory=list)
    """Still to be sent, in the order in which they were published."""
    sent: int = 0
    """Sent before, by this replay."""
    under_way: frozenset[bytes] = frozenset()
    """Of those that were sent before: the ones without an outcome."""
    unreadable: int = 0
    incomplete: int = 0
    """Chosen, but the topic `objects` does not hold all of their objects: only a replay from `images` does these."""
    model_s: float | None = None
    """Seconds in the models that the chosen ones took when they were done before: the mean of those of which it is
    known, for all of them. None where it is known of none."""


async def plan(settings: Settings, selection: Selection, run: str, progress: Progress = lambda *_: None) -> Plan:
    """Read which images there are, and which of them the replay `run` has sent already.

    Raises UserError where broker or topics are missing, or the replay's run is the one that is replayed.
    """
    if run == selection.run:
        raise UserError(f"a replay needs a run of its own: {run} is the one that is to be done again")
    counts = await topics.counts(settings.kafka)
    needed = (topics.IMAGES, topics.OBJECTS, topics.DETECTIONS, topics.COMPLETED)
    if missing := [topic for topic in needed if topic not in counts]:
        raise UserError(f"topic {settings.kafka.prefix}{missing[0]} is missing: nothing to replay", Exit.TOPICS)
    passed = Passed(progress)
    async with TopicReader(settings.kafka, passed=passed) as reader:

        async def records(topic: str, window: Window) -> AsyncIterator[ConsumerRecord]:
            name = settings.kafka.prefix + topic
            spans = await reader.spans(name, counts[topic], since=window.since, until=window.until)
            passed.expect(topic, spans)
            async for record in reader.records(spans):
                yield record

        # What an image leads to comes after it, so none of what belongs to the window is before its beginning.
        later = Window(selection.window.since)
        known = await _outcomes(records(topics.COMPLETED, later), selection, run)
        gone = await _sent(records(selection.source.topic, later), selection, run)
        made = await _chosen(records(selection.source.topic, selection.window), selection, known.taken)
        if selection.source is Source.OBJECTS:
            await _find_objects(records(topics.OBJECTS, later), selection, made.images)
    found = Plan(run, selection.source, unreadable=made.unreadable)
    found.sent = len(made.images.keys() & gone)
    found.under_way = frozenset(made.images.keys() & (gone - known.done))
    left = [image for name, image in made.images.items() if name not in gone]
    found.images = [image for image in left if len(image.objects) == image.count]
    found.incomplete = len(left) - len(found.images)
    took = [seconds for image in found.images if (seconds := known.taken.get(image.name, (True, None))[1]) is not None]
    found.model_s = sum(took) / len(took) * len(found.images) if took else None
    return found


@dataclass(slots=True)
class _Outcomes:
    taken: dict[bytes, tuple[bool, float | None]] = field(default_factory=dict)
    """Of each image of the run that has an outcome: whether it is chosen, and the seconds that models took for it."""
    done: set[bytes] = field(default_factory=set)
    """Those with an outcome under the replay's run."""


async def _outcomes(records: AsyncIterator[ConsumerRecord], selection: Selection, run: str) -> _Outcomes:
    found = _Outcomes()
    revisions: dict[bytes, int] = {}
    phases = [RECONSTRUCTING, *([DETECTING] if selection.source is Source.IMAGES else [])]
    async for record in records:
        outcome = readable(CompletedImageEvent, record)
        if outcome is None:
            continue
        name = digest_of(outcome.image_id)
        if outcome.run == run:
            found.done.add(name)
        if outcome.run != selection.run or revisions.get(name, 0) >= outcome.revision:
            continue
        revisions[name] = outcome.revision
        took = [outcome.times[phase] for phase in phases if phase in outcome.times]
        found.taken[name] = selection.has(outcome), sum(took) if took else None
    return found


async def _sent(records: AsyncIterator[ConsumerRecord], selection: Selection, run: str) -> set[bytes]:
    gone: set[bytes] = set()
    async for record in records:
        event = readable(_event_of(selection.source), record)
        if event is not None and event.run == run:
            gone.add(digest_of(event.image_id))
    return gone


@dataclass(slots=True)
class _Chosen:
    images: dict[bytes, Again] = field(default_factory=dict)
    unreadable: int = 0


async def _chosen(
    records: AsyncIterator[ConsumerRecord],
    selection: Selection,
    outcomes: Mapping[bytes, tuple[bool, float | None]],
) -> _Chosen:
    found = _Chosen()
    async for record in records:
        event = readable(_event_of(selection.source), record)
        if event is None:
            found.unreadable += 1
            continue
        name, place = digest_of(event.image_id), (record.partition, record.offset)
        if not selection.names(event.image_id, event.run, *place):
            continue
        if not outcomes.get(name, (not selection.by_outcome, None))[0]:
            continue
        if isinstance(event, DetectionEvent):
            if event.objects:  # published twice, its last manifest counts: of the same objects
                found.images[name] = Again(name, place, count=len(event.objects))
        elif name not in found.images:
            found.images[name] = Again(name, place)
    return found


async def _find_objects(
    records: AsyncIterator[ConsumerRecord], selection: Selection, images: Mapping[bytes, Again]
) -> None:
    async for record in records:
        event = readable(ObjectEvent, record)
        if event is None or event.run != selection.run:
            continue
        image = images.get(digest_of(event.image_id))
        if image is not None and event.index < image.count:
            image.objects[event.index] = (record.partition, record.offset)


def _event_of(source: Source) -> type[ImageEvent] | type[DetectionEvent]:
    return ImageEvent if source is Source.IMAGES else DetectionEvent


def readable(event: type[E], record: ConsumerRecord) -> E | None:
    """The event of a record; None where it can't be read."""
    try:
        return decode(event, record.value)
    except RecordFault:
        return None
