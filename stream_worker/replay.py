"""Doing photos again, under a run of their own: with other weights, after a fault, to compare. `stream-worker replay`.

    images ----> those that are chosen ----> images, run NAME ----> the service ----> completed-images, run NAME

The original events stay as they are. Only `ahead` images of a replay are on their way at a time, so live photos never
wait behind more than these: a replay goes as fast as the service has time for it. What has been sent is known by the
topic itself (the same image under the replay's run), so a replay that was stopped goes on where it was: nothing is left
out, and nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from aiokafka import ConsumerRecord

from stream_worker import telemetry, topics
from stream_worker.contract import decode
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.events import LIVE, CompletedImageEvent, ImageEvent
from stream_worker.publish import Publisher
from stream_worker.reading import Passed, Progress, Span, TopicReader
from stream_worker.results import Results
from stream_worker.settings import Settings
from stream_worker.window import Window

log = telemetry.get(__name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which images of which run; None and empty sets: all."""

    run: str = LIVE
    window: Window = field(default_factory=Window)
    """When they were published."""
    ids: frozenset[str] | None = None
    statuses: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    """Of the image, or of one of its objects."""
    labels: frozenset[str] = frozenset()
    """Of one of its objects."""

    @property
    def by_outcome(self) -> bool:
        """Whether it takes an image's outcome to know."""
        return bool(self.statuses or self.reasons or self.labels)

    def has(self, outcome: CompletedImageEvent) -> bool:
        """Whether an image with this outcome is one of them."""
        why = [outcome.reason, *(one.reason for one in outcome.objects)]
        codes = {one.code for one in why if one is not None}
        labels = {one.label for one in outcome.objects}
        return (
            (not self.statuses or outcome.status in self.statuses)
            and (not self.reasons or not codes.isdisjoint(self.reasons))
            and (not self.labels or not labels.isdisjoint(self.labels))
        )


@dataclass(slots=True)
class Plan:
    """What a replay would do."""

    run: str
    photos: list[bytes] = field(default_factory=list)
    """Still to be sent, as they were published and in that order."""
    sent: int = 0
    """Sent before, by this replay."""
    unreadable: int = 0
    model_s: float | None = None
    """Seconds in the models that the chosen ones took when they were done before; None where none was."""


@dataclass(slots=True)
class Done:
    """What became of the images of a replay."""

    statuses: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    reused: int = 0
    """Objects whose result was found again: they cost no GPU time."""


async def plan(settings: Settings, selection: Selection, run: str, progress: Progress = lambda *_: None) -> Plan:
    """Read which images there are, and which of them the replay `run` has sent already.

    Raises UserError where broker or topics are missing, or the replay's run is the one that is replayed.
    """
    if run == selection.run:
        raise UserError(f"a replay needs a run of its own: {run} is the one that is to be done again")
    counts = await topics.counts(settings.kafka)
    if missing := [topic for topic in (topics.IMAGES, topics.COMPLETED) if topic not in counts]:
        raise UserError(f"topic {settings.kafka.prefix}{missing[0]} is missing: nothing to replay", Exit.TOPICS)
    passed = Passed(progress)
    found = Plan(run)
    async with TopicReader(settings.kafka, passed=passed) as reader:

        async def records(topic: str, window: Window) -> AsyncIterator[ConsumerRecord]:
            name = settings.kafka.prefix + topic
            spans: list[Span] = await reader.spans(name, counts[topic], since=window.since, until=window.until)
            passed.expect(topic, spans)
            async for record in reader.records(spans):
                yield record

        # Outcomes come after their photos, so none of a photo of the window is before its beginning.
        outcomes = await _outcomes(records(topics.COMPLETED, Window(selection.window.since)), selection)
        gone: set[bytes] = set()
        async for record in records(topics.IMAGES, Window(selection.window.since)):
            event = _event(record)
            if event is not None and event.run == run:
                gone.add(_digest(event.image_id))
        seen: set[bytes] = set()
        seconds: list[float] = []
        async for record in records(topics.IMAGES, selection.window):
            event = _event(record)
            if event is None:
                found.unreadable += 1
                continue
            name = _digest(event.image_id)
            named = selection.ids is None or event.image_id in selection.ids
            if event.run != selection.run or name in seen or not named:
                continue
            matches, took_s = outcomes.get(name, (not selection.by_outcome, None))
            if not matches:
                continue
            seen.add(name)
            if name in gone:
                found.sent += 1
                continue
            found.photos.append(record.value)
            if took_s is not None:
                seconds.append(took_s)
    found.model_s = sum(seconds) if seconds else None
    return found


async def replay(
    settings: Settings,
    planned: Plan,
    *,
    ahead: int,
    per_second: float | None = None,
    progress: Progress = lambda *_: None,
) -> Done:
    """Send the photos of a plan under its run, `ahead` on their way at a time, and wait for their outcomes.

    `per_second`: send no more than that many. Raises UserError where the broker does not take one.
    """
    done = Done()
    waiting: set[str] = set()
    total = len(planned.photos)
    room = asyncio.Semaphore(ahead)
    sent_all = asyncio.Event()

    async with Results(settings) as results, Publisher(settings) as publisher:

        async def watch() -> None:
            async for outcome in results:
                if outcome.run != planned.run or outcome.image_id not in waiting:
                    continue
                waiting.discard(outcome.image_id)
                done.statuses[outcome.status] += 1
                done.objects += len(outcome.objects)
                done.reused += sum(one.reused for one in outcome.objects)
                room.release()
                progress("replay", done.statuses.total(), total)
                if sent_all.is_set() and not waiting:
                    return

        watching = asyncio.create_task(watch(), name="replay")
        try:
            for value in planned.photos:
                photo = decode(ImageEvent, value)
                acquired = asyncio.create_task(room.acquire())
                await asyncio.wait({acquired, watching}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():  # it ends with an error, as long as there is something to be sent
                    acquired.cancel()
                    watching.result()
                waiting.add(photo.image_id)
                await publisher.publish(
                    photo.url,
                    image_id=photo.image_id,
                    run=planned.run,
                    classes=photo.classes,
                    deadline_s=photo.deadline_s,
                    metadata=photo.metadata,
                )
                if per_second is not None:
                    await asyncio.sleep(1 / per_second)
            sent_all.set()
            if waiting:
                await watching
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return done


async def _outcomes(
    records: AsyncIterator[ConsumerRecord], selection: Selection
) -> dict[bytes, tuple[bool, float | None]]:
    """Of each image of the run that has an outcome: whether it is chosen, and the seconds that models took for it."""
    found: dict[bytes, tuple[bool, float | None]] = {}
    revisions: dict[bytes, int] = {}
    async for record in records:
        try:
            outcome = decode(CompletedImageEvent, record.value)
        except RecordFault:
            continue
        name = _digest(outcome.image_id)
        if outcome.run != selection.run or revisions.get(name, 0) >= outcome.revision:
            continue
        revisions[name] = outcome.revision
        took = [outcome.times[one] for one in ("detector_detect", "reconstructor_reconstruct") if one in outcome.times]
        found[name] = selection.has(outcome), sum(took) if took else None
    return found


def _event(record: ConsumerRecord) -> ImageEvent | None:
    try:
        return decode(ImageEvent, record.value)
    except RecordFault:
        return None


def _digest(image_id: str) -> bytes:
    """Sixteen bytes in place of an id of any length."""
    return hashlib.blake2b(image_id.encode(), digest_size=16).digest()
