"""The work of a replay: its images sent one after the other, and their outcomes waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiokafka import ConsumerRecord, TopicPartition

from stream_worker import topics
from stream_worker.audit.digests import digest_of
from stream_worker.balance import Balancer
from stream_worker.errors import Exit, FatalError, FencedError, OutageError, UserError
from stream_worker.events import DetectionEvent, ImageEvent, ObjectEvent
from stream_worker.pace import FOR_OBJECTS, FOR_PHOTOS, Pace
from stream_worker.reading import Progress, TopicReader
from stream_worker.records import Headers, Output
from stream_worker.replay import again
from stream_worker.replay.plan import Again, Plan, plan, readable
from stream_worker.replay.selection import Selection, Source
from stream_worker.results import Results
from stream_worker.settings import Settings
from stream_worker.transaction import ProducerLostError, TransactionalProducer

FETCH_BYTES = 64 * 1024
"""Records are read one by one, each at its place: what lies behind it is not wanted."""


@dataclass(slots=True)
class Done:
    """What became of the images of a replay."""

    statuses: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    reused: int = 0
    """Objects whose result was found again: they cost no GPU time."""
    deleted: int = 0
    """Images that were not sent: the broker has deleted an event of theirs since the plan was made."""


async def replay(
    settings: Settings,
    selection: Selection,
    run: str,
    *,
    ahead: int | None = None,
    per_second: float | None = None,
    recompute: bool = False,
    planned: Callable[[Plan], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Done:
    """Send the chosen images under a run of their own, and wait for their outcomes and those of what was sent before.

    `ahead`: how many are on their way at a time; None: as many as the service has time for (`Pace`). `per_second`: send
    no more than that many. `recompute`: results of the same work are not used again. `planned` is told what is begun.

    Raises UserError where broker or topics are missing, where the broker does not take an image, and where another
    process begins the same replay: one at a time does a run.
    """
    done = Done()
    async with AsyncExitStack() as stack:
        # The run is ours before it is read what it has sent already: nobody else adds to it from now on.
        writer = await stack.enter_async_context(_Writer(settings, selection.source, run, recompute=recompute))
        # From here on no outcome is missed.
        results = await stack.enter_async_context(Results(settings))
        work = await plan(settings, selection, run, progress)
        planned(work)
        if ahead is None and work.images:
            limits = FOR_PHOTOS if selection.source is Source.IMAGES else FOR_OBJECTS
            pace = await stack.enter_async_context(Pace(settings.kafka, limits))
            room = pace.room
        waiting = set(work.under_way)
        total = len(work.images) + len(waiting)
        arrived = asyncio.Event()

        def tell() -> None:
            over = done.statuses.total() + done.deleted
            progress(f"{run}: lag {total - over}, {len(waiting)} on their way", over, total)

        async def outcomes() -> None:
            async for outcome in results:
                name = digest_of(outcome.image_id)
                if outcome.run != run or name not in waiting:
                    continue
                waiting.discard(name)
                done.statuses[outcome.status] += 1
                done.objects += len(outcome.objects)
                done.reused += sum(one.reused for one in outcome.objects)
                tell()
                arrived.set()

        watching = asyncio.create_task(outcomes(), name="outcomes of a replay")

        async def until(wanted: Awaitable[None]) -> None:
            """Wait for it, unless the watching ends: with an error, for it ends with nothing else."""
            task = asyncio.ensure_future(wanted)
            try:
                await asyncio.wait({task, watching}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()
                task.result()
            finally:
                task.cancel()

        async def fewer_than(most: int) -> None:
            while len(waiting) >= most:
                arrived.clear()
                await arrived.wait()

        try:
            for image in work.images:
                await until(room() if ahead is None else fewer_than(ahead))
                waiting.add(image.name)
                if not await writer.write(image):
                    waiting.discard(image.name)
                    done.deleted += 1
                tell()
                if per_second is not None:
                    await asyncio.sleep(1 / per_second)
            await until(fewer_than(1))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return done


class _Writer:
    """Reads an image's events at their places, and writes them anew in one transaction: all of them, or none."""

    def __init__(self, settings: Settings, source: Source, run: str, *, recompute: bool) -> None:
        self._settings, self._kafka = settings, settings.kafka
        self._source, self._run, self._recompute = source, run, recompute
        prefix = self._kafka.prefix
        self._producer = TransactionalProducer(self._kafka, f"{prefix}replay.{run}", f"{prefix}replay")
        self._reader = TopicReader(self._kafka, fetch_bytes=FETCH_BYTES)
        self._balancer = Balancer(self._kafka, "reconstructor")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Connect, and stop whoever else does this run."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._reader)
            if self._source is Source.OBJECTS:
                stack.push_async_callback(self._balancer.stop)
                await self._balancer.start()
            stack.push_async_callback(self._producer.stop)
            try:
                await self._producer.start()
            except OutageError as error:
                raise UserError(f"the broker takes nothing: {error}", Exit.BROKER) from None
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._stack.aclose()

    async def write(self, image: Again) -> bool:
        """Whether it could be written: its events may have been deleted since they were found."""
        outputs = await (self._photo(image) if self._source is Source.IMAGES else self._found(image))
        if not outputs:
            return False
        try:
            await self._producer.write(outputs, {})
        except FencedError:
            raise UserError(f"another process does run {self._run} now: this one has stopped", Exit.FAILED) from None
        except (ProducerLostError, OutageError, FatalError) as error:
            again_is_safe = "the same command goes on where this one was"
            raise UserError(f"the broker did not take an image: {error}; {again_is_safe}", Exit.BROKER) from None
        return True

    async def _photo(self, image: Again) -> list[Output]:
        record = await self._record(topics.IMAGES, image.place)
        event = record and readable(ImageEvent, record)
        if not record or not event:
            return []
        return again.photo(event, _headers(record), self._run, recompute=self._recompute)

    async def _found(self, image: Again) -> list[Output]:
        record = await self._record(topics.DETECTIONS, image.place)
        manifest = record and readable(DetectionEvent, record)
        works = [await self._record(topics.OBJECTS, place) for place in image.objects.values()]
        objects = [event for work in works if work and (event := readable(ObjectEvent, work))]
        await self._balancer.look()
        if not record or not manifest or len(objects) < image.count:
            return []
        return again.found(
            manifest,
            objects,
            _headers(record),
            self._run,
            recompute=self._recompute,
            patience_s=self._settings.aggregator.deadline_s,
            partition=self._balancer.choose,
        )

    async def _record(self, topic: str, place: tuple[int, int]) -> ConsumerRecord | None:
        partition, offset = place
        source = TopicPartition(self._kafka.prefix + topic, partition)
        return await self._reader.record(source, offset)


def _headers(record: ConsumerRecord) -> Headers:
    return tuple(record.headers)
