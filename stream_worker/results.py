"""Completed images for your own app: one after the other, or the one that you wait for, and their PLY files.

    async with Results(load(), group="my-app") as results:
        async for image in results:
            ...

    async with Waiting(load()) as waiting, Publisher(load()) as publisher:
        sent = await publisher.publish("https://example.com/sofa.jpg")
        image = await waiting.wait_for(sent.image_id)

Committed records only. Needs only the base install, and the broker's name in the settings.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import chain
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, OffsetOutOfRangeError

from stream_worker import telemetry, topics
from stream_worker.bootstrap import entry
from stream_worker.closing import close_within, end
from stream_worker.contract import decode
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.events import LIVE, BlobRef, CompletedImageEvent
from stream_worker.settings import Settings
from stream_worker.store import open_store
from stream_worker.topics import HEADROOM_BYTES

POLL_MS = 500
STOP_S = 5.0
REMEMBERED = 10_000
"""Images that came while nobody waited for them, in a `Waiting`."""

log = telemetry.get(__name__)


class Results:
    """Completed images as they come, for ever: an async context manager, and within it an async iterator, of single
    images or of `batches`.

    Args:
        settings: whose broker and topics.
        group: the name of a group of your app's own. Its processes share the images; an image counts as read when the
            next one is asked for, so one that your app dies with comes again (at least once: write idempotently by
            image_id, run and revision). A new group begins with all that the topic still has, or at `since`.
        since: without a group, or for a new one, begin with images completed then or later. Without a group and
            `since`, only what is completed from now on is read; nobody's offsets move.

    An image that can't be read (another version's) is logged and passed over. A broker that is away is waited for.
    """

    def __init__(self, settings: Settings, *, group: str | None = None, since: datetime | None = None) -> None:
        if settings.kafka.bootstrap_servers is None:
            raise UserError("name the broker to read from: kafka.bootstrap_servers", Exit.BROKER)
        self._kafka = settings.kafka
        self._group = group
        self._since = since
        self._consumer: AIOKafkaConsumer
        self._read: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        """Connect, and fix where reading begins. Raises UserError where there is no broker, or no such topic."""
        await topics.require(self._kafka, topics.COMPLETED)
        kafka, count = self._kafka, (await topics.counts(self._kafka))[topics.COMPLETED]
        topic = kafka.prefix + topics.COMPLETED
        self._consumer = AIOKafkaConsumer(
            **await entry(kafka),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none" if self._group is None else "earliest",
            isolation_level="read_committed",
            session_timeout_ms=kafka.session_timeout_ms,
            heartbeat_interval_ms=min(3000, kafka.session_timeout_ms // 3),
            max_poll_interval_ms=kafka.max_poll_interval_ms,
            request_timeout_ms=max(kafka.request_timeout_ms, kafka.session_timeout_ms + 5000),
            max_partition_fetch_bytes=2 * (kafka.max_event_bytes + HEADROOM_BYTES),
        )
        try:
            async with asyncio.timeout(3 * kafka.request_timeout_ms / 1000):
                await self._consumer.start()
                if self._group is not None:
                    self._consumer.subscribe([topic], listener=_Rebalances(self))
                    return self
                # Now, and not when the first image is asked for: what is completed until then is not missed.
                every = [TopicPartition(topic, number) for number in range(count)]
                beginning = await self._beginning(every)
                self._consumer.assign(every)
                for one, offset in beginning.items():
                    self._consumer.seek(one, offset)
        except (KafkaError, TimeoutError, OSError) as error:
            await close_within(STOP_S, self._consumer.stop())
            raise UserError(f"no Kafka broker answers: {type(error).__name__}: {error}", Exit.BROKER) from None
        except BaseException:
            await close_within(STOP_S, self._consumer.stop())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the group. What was handed out last counts as read where the context ends in order."""
        if kind is None:
            await self._commit()
        await close_within(STOP_S, self._consumer.stop())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> CompletedImageEvent:
        return (await self._next(1))[0]

    async def batches(self, most: int = 200) -> AsyncIterator[list[CompletedImageEvent]]:
        """Images in lists, for ever: what is there, at least one and at most `most`, without waiting for more.

        A list counts as read, as a whole, when the next one is asked for: so an app may write it in one transaction.
        """
        if most < 1:
            raise ValueError(f"a batch has at least one image: most={most}")
        while True:
            yield await self._next(most)

    async def _next(self, most: int) -> list[CompletedImageEvent]:
        await self._commit()
        images: list[CompletedImageEvent] = []
        while not images:
            polled = await self._polled(most)
            self._read |= {partition: records[-1].offset + 1 for partition, records in polled.items()}
            for record in chain.from_iterable(polled.values()):
                try:
                    images.append(decode(CompletedImageEvent, record.value))
                except RecordFault as fault:
                    log.warning("unreadable event", partition=record.partition, offset=record.offset, error=str(fault))
        return images

    async def _polled(self, most: int) -> Mapping[TopicPartition, list[ConsumerRecord]]:
        """What has come, none kept back here: the group waits for as long as `most` of them take, not all of them."""
        try:
            polled: Mapping[TopicPartition, list[ConsumerRecord]] = await self._consumer.getmany(
                timeout_ms=POLL_MS, max_records=most
            )
        except OffsetOutOfRangeError as error:
            await self._out_of_range(error.args[0])
            return {}
        return polled

    async def _out_of_range(self, positions: Mapping[TopicPartition, int]) -> None:
        """What is not there any more is passed over; a node that does not have it yet is asked again."""
        begins = await self._consumer.beginning_offsets(positions)
        for one, offset in positions.items():
            if offset < begins[one]:
                log.error("images were deleted before they were read", partition=one.partition, goes_on_at=begins[one])
                self._consumer.seek(one, begins[one])
        await asyncio.sleep(POLL_MS / 1000)

    async def _beginning(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Where to begin in partitions of which nothing has been read."""
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(partitions)
        if self._since is None:
            return ends
        stamp = max(0, round(self._since.timestamp() * 1000))
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, stamp))
        return {one: found[one].offset if found.get(one) is not None else ends[one] for one in partitions}

    async def _commit(self) -> None:
        """Note how far the group has read."""
        if self._group is None or not self._read:
            return
        read, self._read = self._read, {}
        # Another process may have got a partition meanwhile: it begins with what was handed out last here.
        with suppress(CommitFailedError, IllegalStateError):
            await self._consumer.commit(read)


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """A group's partitions come and go."""

    def __init__(self, results: Results) -> None:
        self._results = results

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """What was handed out last comes again, to whoever has the partitions then."""
        self._results._read.clear()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """A group that is new begins where it was told to."""
        results = self._results
        if results._since is None:
            return
        new = [one for one in assigned if await results._consumer.committed(one) is None]
        for one, offset in (await results._beginning(new)).items() if new else ():
            results._consumer.seek(one, offset)


class Waiting:
    """Waits for the images that your app has published. An async context manager, entered before they are published.

    Any number of tasks may wait. Of the images that came while nobody waited for them the last 10,000 are remembered.
    """

    def __init__(self, settings: Settings, *, since: datetime | None = None) -> None:
        """`since`: know of images that were completed then or later, too."""
        self._results = Results(settings, since=since)
        self._waiting: dict[tuple[str, str], set[asyncio.Future[CompletedImageEvent]]] = {}
        self._came: OrderedDict[tuple[str, str], CompletedImageEvent] = OrderedDict()
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Raises as `Results`."""
        await self._results.__aenter__()
        self._reading = asyncio.create_task(self._read(), name="waiting")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end(self._reading)
        for waiting in self._waiting.values():
            for one in waiting:
                one.cancel()
        await self._results.__aexit__(kind, error, trace)

    async def wait_for(self, image_id: str, run: str = LIVE) -> CompletedImageEvent:
        """The image's outcome, whatever its status; the newest revision that has come. Waits as long as it takes."""
        name = image_id, run
        if name in self._came:
            return self._came[name]
        one: asyncio.Future[CompletedImageEvent] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, set()).add(one)
        try:
            either: set[asyncio.Future[Any]] = {one, self._reading}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not one.done():
                self._reading.result()  # it ends with an error, if at all
                raise asyncio.CancelledError
            return one.result()
        finally:
            waiting = self._waiting.get(name, set())
            waiting.discard(one)
            if not waiting:
                self._waiting.pop(name, None)

    async def _read(self) -> None:
        async for image in self._results:
            name = image.image_id, image.run
            self._came.pop(name, None)
            self._came[name] = image
            while len(self._came) > REMEMBERED:
                self._came.popitem(last=False)
            for one in self._waiting.get(name, ()):
                if not one.done():
                    one.set_result(image)


async def download(settings: Settings, blob: BlobRef) -> bytes:
    """The bytes of a PLY, GLB or photo that an event references, their sha256 checked.

    Raises RecordFault (BLOB_MISSING) where they are gone or not what they were; OutageError where the store is away;
    UserError where the settings name no store that can be used.
    """
    async with open_store(settings) as store:
        return await store.get(blob)
