"""Reading topics to their end: committed records only, by time across partitions, without a group."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import heappop, heappush
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from stream_worker.closing import close_within
from stream_worker.errors import Exit, UserError
from stream_worker.security import client
from stream_worker.security.refusals import why
from stream_worker.settings import Kafka
from stream_worker.topics import HEADROOM_BYTES

STOP_S = 5.0
_POLL_MS = 100
_TURN = 100
"""Records after which other work on the event loop gets its turn."""


Progress = Callable[[str, int, int], None]
"""Told the phase, and how much of how much is done."""


@dataclass(slots=True)
class Passed:
    """How many offsets have been read: a TopicReader's `passed`."""

    tell: Progress
    total: int = 0
    done: int = 0
    phase: str = ""

    def __call__(self, offsets: int) -> None:
        self.done += offsets
        self.tell(self.phase, self.done, self.total)

    def expect(self, phase: str, spans: Sequence[Span]) -> None:
        """These are to be read next."""
        self.phase = phase
        self.total += sum(max(0, span.end - span.start) for span in spans)


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of a partition: from `start` on, before `end`. `first` is the oldest that the broker still has."""

    partition: TopicPartition
    first: int
    start: int
    end: int

    @property
    def whole(self) -> bool:
        """Whether it has all that was ever written before its end."""
        return self.first == self.start == 0


class TopicReader:
    """A consumer that is told what to read. Raises UserError, one line, where the broker is away or cut the log.

    `passed` is told, again and again, how many more offsets have been read. `fetch_bytes` is how much is fetched at
    a time of each partition, if one event is not more; None: two of the largest events.
    """

    def __init__(
        self,
        kafka: Kafka,
        *,
        patience_s: float = 60.0,
        passed: Callable[[int], None] = lambda _: None,
        fetch_bytes: int | None = None,
    ) -> None:
        self._kafka = kafka
        self._patience_s = patience_s
        self._passed = passed
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap_servers,
            **client(kafka),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            request_timeout_ms=kafka.request_timeout_ms,
            fetch_max_wait_ms=_POLL_MS,
            max_partition_fetch_bytes=fetch_bytes or 2 * (kafka.max_event_bytes + HEADROOM_BYTES),
        )

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(2 * self._kafka.request_timeout_ms / 1000):
                await self._consumer.start()
        except (KafkaError, TimeoutError, OSError) as error:
            await close_within(STOP_S, self._consumer.stop())
            raise (
                UserError(reason, Exit.BROKER) if (reason := await why(self._kafka)) else self._away(error)
            ) from None
        return self

    async def __aexit__(self, *_: object) -> None:
        await close_within(STOP_S, self._consumer.stop())

    async def spans(
        self, topic: str, partitions: int, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[Span]:
        """What the topic (its full name) holds now of records stamped from `since` on and before `until`.

        The end is that of the last transaction that is closed: what is open now is not waited for.
        """
        every = [TopicPartition(topic, number) for number in range(partitions)]
        try:
            async with asyncio.timeout(self._patience_s):
                ends = await self._consumer.end_offsets(every)
                first = await self._consumer.beginning_offsets(every)
                start = await self._at(every, since, ends) if since is not None else first
                end = await self._at(every, until, ends) if until is not None else ends
        except (KafkaError, TimeoutError, OSError) as error:
            raise self._away(error) from None
        return [
            Span(one, first[one], min(max(first[one], start[one]), ends[one]), min(end[one], ends[one]))
            for one in every
        ]

    async def _at(
        self, partitions: Sequence[TopicPartition], moment: datetime, ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """The first offset of that time or later."""
        stamp = max(0, round(moment.timestamp() * 1000))
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, stamp))
        return {one: found[one].offset if found.get(one) is not None else ends[one] for one in partitions}

    async def records(self, spans: Sequence[Span]) -> AsyncIterator[ConsumerRecord]:
        """All committed records of the spans, those of a partition in order, across partitions the oldest first.

        Ends are reached by position: the last offsets are transaction markers or aborted records, which no poll
        returns. Of each partition one fetch is held.
        """
        ends = {span.partition: span.end for span in spans if span.start < span.end}
        self._consumer.assign(list(ends))
        for span in spans:
            if span.partition in ends:
                self._consumer.seek(span.partition, span.start)
        waiting = set(ends)
        fetched: dict[TopicPartition, deque[ConsumerRecord]] = {}
        oldest: list[tuple[int, str, int]] = []
        count = 0
        reached = {span.partition: span.start for span in spans}

        def pass_to(partition: TopicPartition, offset: int) -> None:
            self._passed(offset - reached[partition])
            reached[partition] = offset

        while waiting or oldest:
            if waiting:
                for partition, records in (await self._more(waiting, ends)).items():
                    waiting.discard(partition)
                    if not records:
                        self._consumer.pause(partition)
                        pass_to(partition, ends[partition])
                        continue
                    fetched[partition] = records
                    heappush(oldest, (records[0].timestamp, *partition))
                continue
            _, topic, number = heappop(oldest)
            partition = TopicPartition(topic, number)
            record = fetched[partition].popleft()
            if fetched[partition]:
                heappush(oldest, (fetched[partition][0].timestamp, topic, number))
            else:
                waiting.add(partition)
                pass_to(partition, record.offset + 1)
            yield record
            count += 1
            if count % _TURN == 0:
                await asyncio.sleep(0)

    async def record(self, partition: TopicPartition, offset: int) -> ConsumerRecord | None:
        """The record at an offset; None where there is none any more."""
        async for record in self.records([Span(partition, 0, offset, offset + 1)]):
            return record
        return None

    async def _more(
        self, waiting: set[TopicPartition], ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, deque[ConsumerRecord]]:
        """What has come of some of these partitions; nothing for one that has reached its end."""
        loop = asyncio.get_running_loop()
        before: dict[TopicPartition, int] = {}
        moved_at = loop.time()
        try:
            while True:
                async with asyncio.timeout(self._patience_s):
                    positions = {one: await self._consumer.position(one) for one in waiting}
                    done = {one: deque[ConsumerRecord]() for one in waiting if positions[one] >= ends[one]}
                    if done:
                        return done
                    got = await self._consumer.getmany(*waiting, timeout_ms=_POLL_MS)
                more = {
                    one: deque(record for record in records if record.offset < ends[one])
                    for one, records in got.items()
                }
                if more := {one: records for one, records in more.items() if records}:
                    return more
                if positions != before:
                    before, moved_at = positions, loop.time()
                elif loop.time() - moved_at > self._patience_s:
                    raise TimeoutError
        except OffsetOutOfRangeError:
            raise UserError(
                "the broker has deleted what was being read (retention): run it again", Exit.FAILED
            ) from None
        except (KafkaError, TimeoutError, OSError) as error:
            raise self._away(error) from None

    def _away(self, error: BaseException) -> UserError:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        return UserError(f"Kafka at {self._kafka.bootstrap_servers} can't be read: {reason}", Exit.BROKER)
