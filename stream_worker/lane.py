"""One lane: a partition number of a group's topics, worked on in order and committed by transactions.

records --> attempts (overlapping) --> the finished prefix, in order --> one transaction --> next
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from stream_worker import metrics, telemetry, topics
from stream_worker.attempts import Attempts, pause
from stream_worker.closing import end
from stream_worker.custody import Custody
from stream_worker.errors import FatalError, FencedError, OutageError
from stream_worker.outages import Outages
from stream_worker.records import Group, Output, Received
from stream_worker.retry import outage_delay
from stream_worker.settings import Settings
from stream_worker.transaction import ProducerLostError, TransactionalProducer

TICK_S = 1.0
CLOSE_S = 2.0
"""Saying that a lane was closed in order, at most. Unsaid, the next owner counts a crash: a pity, no harm."""
LOST_IN_A_ROW = 10
"""Producers lost one after the other, each with a broker that answered: no outage, and no retry mends it."""

log = telemetry.get(__name__)

_SET = asyncio.Event()
_SET.set()


def limit(window: int, batch: int) -> int:
    """How many records a lane holds at most, finished ones that wait for an earlier one included.

    So a record that is tried again and again keeps the others of its lane from being committed, but neither them
    nor other lanes from being worked on. At least twice the window; for a window of half a batch, just that.
    """
    return max(2 * window, min(batch, 4 * window))


@dataclass(slots=True)
class Work:
    """A record in hand, and the attempt that will give its outputs."""

    record: Received
    source: TopicPartition
    before: asyncio.Event
    """Set when the record before it in the lane has been given to the group, or will never be."""
    attempt: asyncio.Task[list[Output]] = field(init=False)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """The same, of this record."""
    near: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when so little before it is not committed that it may be in work, where a record is suspected."""
    first: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when everything before it in the lane is committed."""


class Lane:
    """Takes a lane over, works on it, and gives it up.

    The gate is shut until the former owner is fenced, the committed offsets are read after that, and the
    group's state is restored; `accept` drops records while it is shut. After any doubt about the producer the
    lane starts over from there: nothing that was not committed survives in memory.
    """

    def __init__(
        self,
        number: int,
        group: Group,
        settings: Settings,
        consumer: AIOKafkaConsumer,
        attempts: Attempts,
        outages: Outages,
        *,
        progress: Callable[[], None],
        released: Callable[[int], None],
        fatal: Callable[[FatalError], None],
    ) -> None:
        """`released` hears how many attempts have ended, and with 0 that the lane may take records again."""
        self.number = number
        self._group = group
        self._settings = settings
        self._consumer = consumer
        self._attempts = attempts
        self._outages = outages
        self._progress = progress
        self._released = released
        self._fatal = fatal
        kafka = settings.kafka
        self._topics = {TopicPartition(kafka.prefix + topic, number): topic for topic in group.topics}
        self._producer = TransactionalProducer(
            kafka, f"{kafka.prefix}{group.name}.{group.topics[0]}.{number}", kafka.prefix + group.name
        )
        self._writing = asyncio.Lock()
        self._limit = limit(group.window, settings.stage.batch)
        self._open = False
        self._owned = False
        self._positions: dict[TopicPartition, int] = {}
        self._custody: dict[TopicPartition, Custody] = {}
        self._suspicious: dict[TopicPartition, int] = {}
        self._begun: set[TopicPartition] = set()
        self._certain = False
        """Whether `_positions` is what is committed. It is not after a transaction that may or may not have been."""
        self._spoilt = False
        self._unwritten = False
        """Whether the group's state may hold something that no transaction has written."""
        self._queue: deque[Work] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._waits = 0
        self._lost = 0
        self._log = log.bind(lane=number)
        self._transaction_seconds = metrics.TRANSACTION_SECONDS.labels(group.name)
        consumer.pause(*self._topics)
        for source in self._topics:
            consumer.seek(source, 0)  # any position will do until the gate opens: aiokafka shall not look for one
        self._task = asyncio.create_task(self._run(), name=f"lane-{number}")

    # ------------------------------------------------------------------ what the runner calls

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand."""
        return not self._queue

    @property
    def is_open(self) -> bool:
        """Whether it takes records."""
        return self._open

    @property
    def sources(self) -> Mapping[TopicPartition, str]:
        """Its partitions, and the logical names of their topics."""
        return self._topics

    def in_hand(self, source: TopicPartition) -> tuple[int, int | None]:
        """How many records of a source it has that are not committed, and when the oldest was written (ms)."""
        written = [work.record.timestamp_ms for work in self._queue if work.source == source]
        return len(written), min(written, default=None)

    def full(self) -> list[TopicPartition]:
        """The sources of which nothing more is to be polled now."""
        if len(self._queue) > self._limit - self._group.window:
            return list(self._topics)
        topics = self._group.full(self.number) if self._open else frozenset()
        return [source for source, topic in self._topics.items() if topic in topics]

    def accept(self, source: TopicPartition, records: Iterable[Received]) -> int:
        """Start work on records; how many were taken (none while the gate is shut)."""
        if not self._open:
            return 0
        taken = 0
        for record in records:
            work = Work(record, source, before=self._queue[-1].started if self._queue else _SET)
            work.attempt = asyncio.create_task(self._in_turn(work))
            work.attempt.add_done_callback(self._attempted)
            self._queue.append(work)
            taken += 1
        if taken:
            self._let_through()
            self._idle.clear()
        return taken

    async def close(self, drain_s: float, *, orderly: bool = True, returning: bool = False) -> None:
        """Give the lane up: what is in hand may finish and commit within `drain_s`, the rest is left undone.

        Not `orderly`: as if the process had died with it. `returning`: it may come back soon, as from a rebalance.
        """
        opened, self._open = self._open, False
        self._wake.set()
        if opened and drain_s > 0 and not self._task.done():
            drained = asyncio.create_task(self._idle.wait())
            await asyncio.wait({drained, self._task}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S), self._writing:
                pass  # a transaction under way has ended
        await end(self._task)
        whole = opened and not self._queue and not self._unwritten
        await self._drop()
        sealed = False
        if orderly and self._certain:
            # In this order: a commit after the seal shows that the lane was ours until then.
            sealed = returning and whole and await self._seal()
            sealed = await self._say_closed() and sealed
        await self._producer.stop()
        await self._group.close(self.number, sealed=sealed)

    # ------------------------------------------------------------------ its life

    async def _run(self) -> None:
        try:
            while True:
                with self._outages.waiter() as hit:
                    while not await self._went_well(self._take_over(), hit):
                        await self._again()
                await self._went_well(self._work())
                await self._again()
        except FatalError as error:
            self._fatal(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # a bug of ours: the supervisor must hear of it
            self._log.exception("lane failed")
            self._fatal(FatalError(f"lane {self.number}: {type(error).__name__}: {error}"))

    async def _went_well(
        self, step: Coroutine[None, None, None], hit: Callable[[OutageError], None] = lambda _: None
    ) -> bool:
        """Whether a step came to its end; otherwise the lane has to start over."""
        try:
            await step
        except ProducerLostError as doubt:
            self._doubted(doubt)
        except OutageError as outage:
            hit(outage)
            self._log.warning("waiting out an outage", error=str(outage))
            self._lost = 0
            self._progress()
        else:
            return True
        return False

    def _doubted(self, doubt: ProducerLostError) -> None:
        metrics.PRODUCERS_LOST.labels(self._group.name).inc()
        self._lost += 1
        if self._lost >= LOST_IN_A_ROW:
            raise FatalError(f"lane {self.number} can't commit, {self._lost} times in a row: {doubt}")
        self._log.warning("lane starts over", error=str(doubt))

    async def _again(self) -> None:
        """Forget everything that was not committed, and wait before the next try."""
        await self._drop()
        await self._producer.stop()
        await self._group.close(self.number)
        await pause(outage_delay(self._waits))
        self._waits += 1

    async def _take_over(self) -> None:
        """Fence, then read what is committed, then restore, then open the gate: in this order."""
        await self._producer.start()
        committed = await self._committed()
        await self._group.open(self.number)
        for source, (offset, metadata) in committed.items():
            if offset < self._positions.get(source, 0):
                # A coordinator that was stopped, and does not know that it is none any more.
                raise OutageError(f"{source.topic}-{source.partition}: offset {offset} is behind what was committed")
            self._positions[source] = offset
            self._custody[source] = self._inherited(source, offset, Custody.read(metadata))
        self._begun.clear()
        self._unwritten = False
        self._certain = True
        # Before the gate: dying with the first record must not look like never having had it.
        await self._write([], self._custody)
        self._owned = True
        for source, offset in self._positions.items():
            # No await between here and the gate: what getmany hands out later is from this position.
            self._consumer.seek(source, offset)
            self._consumer.resume(source)
        self._open = True
        self._released(0)
        self._progress()
        self._log.debug("lane open", positions={s.topic: o for s, o in self._positions.items()})

    async def _committed(self) -> dict[TopicPartition, tuple[int, str]]:
        """Where to go on, and the metadata there. Raises OutageError where the broker does not say."""
        try:
            known = await self._producer.committed(list(self._topics))
            unknown = [source for source in self._topics if source not in known]
            async with asyncio.timeout(self._settings.kafka.request_timeout_ms / 1000):
                first = await self._consumer.beginning_offsets(unknown) if unknown else {}
        except (KafkaError, TimeoutError) as error:
            raise OutageError(f"first offsets can't be read: {type(error).__name__}: {error}") from error
        return {
            source: (known[source].offset, known[source].metadata) if source in known else (first[source], "")
            for source in self._topics
        }

    def _inherited(self, source: TopicPartition, offset: int, found: Custody) -> Custody:
        if self._owned:  # we start over: nobody died
            return found.undone() if source in self._begun else found
        custody = found.taken_over(offset)
        if custody.crashes > found.crashes:
            metrics.CRASHED_TAKEOVERS.labels(self._group.name).inc()
            self._log.warning("the owner before died", topic=source.topic, offset=offset, deaths=custody.crashes)
        if custody.suspicious:
            self._suspicious[source] = custody.since + self._limit
        return custody

    async def _drop(self) -> None:
        """Forget everything that is in hand."""
        self._open = False
        assigned = self._consumer.assignment()
        self._consumer.pause(*[source for source in self._topics if source in assigned])
        works = list(self._queue)
        self._queue.clear()
        await asyncio.gather(*(end(work.attempt) for work in works))
        self._idle.set()

    async def _seal(self) -> bool:
        with suppress(OutageError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._group.seal(self.number)
                return True
        return False

    async def _say_closed(self) -> bool:
        """Let the next owner know that nobody died here. Whether that was committed."""
        closed = {
            source: (custody.undone() if source in self._begun else custody).closed()
            for source, custody in self._custody.items()
        }
        with suppress(ProducerLostError, OutageError, FatalError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if self._spoilt:
                    await self._producer.stop()
                    await self._producer.start()
                await self._write([], closed)
                return True
        return False

    # ------------------------------------------------------------------ its work

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        next_tick = loop.time() + TICK_S
        next_commit = loop.time()
        while True:
            batch = self._finished()
            if withheld := bool(batch) and loop.time() < next_commit and self._may_wait():
                batch = []
            outputs = [output for work in batch for output in work.attempt.result()]
            # What a tick says builds on every record that was processed: it goes out with all of them or later.
            if loop.time() >= next_tick and len(batch) == len(self._queue):
                self._unwritten = True
                outputs += await self._group.tick(self.number)
                self._unwritten = bool(outputs)
                next_tick = loop.time() + TICK_S
            if batch or outputs:
                next_commit = loop.time() + self._settings.stage.commit_interval_ms / 1000
                await self._commit(batch, outputs)
                continue
            self._wake.clear()
            if not withheld and self._queue and self._queue[0].attempt.done():
                continue
            until = next_commit if withheld else next_tick if not self._queue else None
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _may_wait(self) -> bool:
        """Whether what is finished keeps nobody waiting: no poll, no record that is to be tried alone, no closing."""
        return (
            self._open
            and len(self._queue) <= self._limit - self._group.window
            and all(work.record.offset >= self._suspicious.get(work.source, 0) for work in self._queue)
        )

    def _finished(self) -> list[Work]:
        """The finished prefix of the queue, at most a batch of it."""
        batch: list[Work] = []
        for work in self._queue:
            if len(batch) == self._settings.stage.batch or not work.attempt.done():
                break
            batch.append(work)
        return batch

    async def _commit(self, batch: list[Work], outputs: list[Output]) -> None:
        moved = {work.source: work.record.offset + 1 for work in batch}
        custody = {source: self._custody[source].moved(offset, self._limit) for source, offset in moved.items()}
        await self._write(outputs, custody, moved)
        self._positions |= moved
        self._custody |= custody
        self._begun -= moved.keys()
        self._unwritten = False
        self._waits = self._lost = 0
        for _ in batch:
            self._queue.popleft()
        if self._queue:
            self._let_through()
        else:
            self._idle.set()
        self._progress()
        self._released(0)
        failed = sum(any(output.topic == topics.DEAD_LETTERS for output in work.attempt.result()) for work in batch)
        metrics.RECORDS.labels(self._group.name, "done").inc(len(batch) - failed)
        metrics.RECORDS.labels(self._group.name, "failed").inc(failed)

    async def _write(
        self,
        outputs: list[Output],
        custody: dict[TopicPartition, Custody],
        moved: dict[TopicPartition, int] | None = None,
    ) -> None:
        """One transaction: outputs, and what is to be known of the sources at their offsets.

        None after one whose end is not known: it would take the group back to offsets of before.
        """
        async with self._writing:
            if not self._certain:
                raise ProducerLostError("the transaction before may or may not have been")
            offsets = self._positions | (moved or {})
            noted = {source: OffsetAndMetadata(offsets[source], known.written()) for source, known in custody.items()}
            self._certain = False
            try:
                with self._transaction_seconds.time():
                    await self._producer.write(outputs, noted)
            except FencedError:
                raise
            except FatalError:
                self._certain = self._spoilt = True  # it was refused: nothing of it has been
                raise
            self._certain = True

    def _let_through(self) -> None:
        """Tell the records that have come far enough to the front."""
        self._queue[0].first.set()
        for work in islice(self._queue, self._together()):
            work.near.set()

    def _together(self) -> int:
        """How many records may be in work at a time."""
        return min(custody.together(self._limit) for custody in self._custody.values())

    def _attempted(self, attempt: asyncio.Task[list[Output]]) -> None:
        self._wake.set()
        self._released(1)

    async def _in_turn(self, work: Work) -> list[Output]:
        """The outputs of a record, which the group is given after the one before it.

        What a group keeps in memory of a record (the join does) is written down when the record is committed. So a
        record must not take effect before one that is committed before it, even where that one has to wait.
        """
        try:
            await work.before.wait()
            return await self._outputs(work)
        finally:
            work.started.set()

    async def _outputs(self, work: Work) -> list[Output]:
        """The outputs of a record, tried beside others or, where workers have died around it, beside few or alone."""
        source = work.source
        if work.record.offset >= self._suspicious.get(source, 0):
            return await self._attempts.outputs(work.record, work.started.set)
        await work.near.wait()
        if self._custody[source].together(self._limit) > 1:
            return await self._attempts.outputs(work.record, work.started.set)
        await work.first.wait()
        before = self._custody[source]
        if before.alone >= self._settings.stage.worker_crashes:
            return self._attempts.crashed(work.record, before.alone)
        return await self._attempts.outputs(work.record, work.started.set, alone=lambda: self._begin(source))

    async def _begin(self, source: TopicPartition) -> None:
        """The record at the front of a source is alone in work from now on: if this process dies, it may be why."""
        if source in self._begun:
            return
        begun = self._custody[source].begun()
        await self._write([], {source: begun})
        self._custody[source] = begun
        self._begun.add(source)
