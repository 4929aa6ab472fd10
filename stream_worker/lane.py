"""One lane: a partition number of a group's topics, worked on in order and committed by transactions.

records --> attempts (overlapping) --> the finished prefix, in order --> one transaction --> next
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_worker import telemetry
from stream_worker.closing import end
from stream_worker.dead_letters import dead_letter
from stream_worker.errors import FatalError, OutageError, Reason, RecordFault, TransientFault
from stream_worker.events import utc_now
from stream_worker.records import Group, Output, Received
from stream_worker.retry import RetryPolicy
from stream_worker.settings import Settings
from stream_worker.transaction import ProducerLostError, TransactionalProducer

TICK_S = 1.0
OUTAGE_DELAY_S = (0.2, 10.0)
"""First and longest wait while something of ours is away."""
LOST_IN_A_ROW = 10
"""Producers lost one after the other, each with a broker that answered: no outage, and no retry mends it."""

log = telemetry.get(__name__)


def _jittered(delay: float) -> float:
    """Half to one and a half times the delay, so that workers don't come back all at once."""
    return delay * random.uniform(0.5, 1.5)  # noqa: S311  # no secret depends on it


@dataclass(slots=True)
class Work:
    """A record in hand, and the attempt that will give its outputs."""

    record: Received
    source: TopicPartition
    attempt: asyncio.Task[list[Output]]


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
        *,
        progress: Callable[[], None],
        released: Callable[[int], None],
        fatal: Callable[[FatalError], None],
    ) -> None:
        self.number = number
        self._group = group
        self._settings = settings
        self._consumer = consumer
        self._progress = progress
        self._released = released
        self._fatal = fatal
        kafka = settings.kafka
        self._sources = [TopicPartition(kafka.prefix + topic, number) for topic in group.topics]
        self._producer = TransactionalProducer(
            kafka, f"{kafka.prefix}{group.name}.{group.topics[0]}.{number}", kafka.prefix + group.name
        )
        self._open = False
        self._queue: deque[Work] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._delay = OUTAGE_DELAY_S[0]
        self._lost = 0
        self._retry = RetryPolicy(settings.stage.retries, settings.stage.retry_delay_s)
        self._log = log.bind(lane=number)
        consumer.pause(*self._sources)
        self._task = asyncio.create_task(self._run(), name=f"lane-{number}")

    # ------------------------------------------------------------------ what the runner calls

    def accept(self, source: TopicPartition, topic: str, records: Iterable[Received]) -> int:
        """Start work on records; how many were taken (none while the gate is shut)."""
        if not self._open:
            return 0
        taken = 0
        for record in records:
            attempt = asyncio.create_task(self._attempt(record))
            attempt.add_done_callback(lambda _: self._wake.set())
            self._queue.append(Work(record, source, attempt))
            taken += 1
        if taken:
            self._idle.clear()
        return taken

    async def close(self, drain_s: float) -> None:
        """Give the lane up: what is in hand may finish and commit within `drain_s`, the rest is left undone."""
        opened, self._open = self._open, False
        if opened and drain_s > 0 and not self._task.done():
            drained = asyncio.create_task(self._idle.wait())
            await asyncio.wait({drained, self._task}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        await end(self._task)
        await self._abandon()

    # ------------------------------------------------------------------ its life

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._take_over()
                    await self._work()
                except ProducerLostError as doubt:
                    self._lost += 1
                    if self._lost >= LOST_IN_A_ROW:
                        raise FatalError(
                            f"lane {self.number} can't commit, {self._lost} times in a row: {doubt}"
                        ) from None
                    self._log.warning("lane starts over", error=str(doubt), retry_in_s=round(self._delay, 1))
                except OutageError as outage:
                    self._log.warning("waiting out an outage", error=str(outage), retry_in_s=round(self._delay, 1))
                    self._lost = 0
                    self._progress()
                await self._abandon()
                await asyncio.sleep(_jittered(self._delay))
                self._delay = min(2 * self._delay, OUTAGE_DELAY_S[1])
        except FatalError as error:
            self._fatal(error)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001  # a bug of ours: the supervisor must hear of it
            self._log.exception("lane failed")
            self._fatal(FatalError(f"lane {self.number}: {type(error).__name__}: {error}"))

    async def _take_over(self) -> None:
        """Fence, then read what is committed, then restore, then open the gate: in this order."""
        await self._producer.start()
        try:
            async with asyncio.timeout(self._settings.kafka.request_timeout_ms / 1000):
                committed = {source: await self._consumer.committed(source) for source in self._sources}
                unknown = [source for source, offset in committed.items() if offset is None]
                first = await self._consumer.beginning_offsets(unknown) if unknown else {}
        except (KafkaError, TimeoutError) as error:
            raise OutageError(f"committed offsets can't be read: {type(error).__name__}: {error}") from error
        await self._group.open(self.number)
        for source, offset in committed.items():
            # No await between here and the gate: what getmany hands out later is from this position.
            self._consumer.seek(source, first[source] if offset is None else offset)
            self._consumer.resume(source)
        self._open = True
        self._progress()
        self._log.debug("lane open", positions={s.topic: o for s, o in committed.items()})

    async def _abandon(self) -> None:
        """Forget everything that was not committed."""
        self._open = False
        assigned = self._consumer.assignment()
        self._consumer.pause(*[source for source in self._sources if source in assigned])
        works = list(self._queue)
        self._queue.clear()
        await asyncio.gather(*(end(work.attempt) for work in works))
        self._released(len(works))
        self._idle.set()
        await self._producer.stop()
        await self._group.close(self.number)

    # ------------------------------------------------------------------ its work

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        next_tick = loop.time() + TICK_S
        while True:
            batch = self._finished()
            outputs = [output for work in batch for output in work.attempt.result()]
            # What a tick says builds on every record that was processed: it goes out with all of them or later.
            if loop.time() >= next_tick and len(batch) == len(self._queue):
                outputs += await self._group.tick(self.number)
                next_tick = loop.time() + TICK_S
            if batch or outputs:
                await self._commit(batch, outputs)
                continue
            self._wake.clear()
            if self._queue and self._queue[0].attempt.done():
                continue
            try:
                async with asyncio.timeout_at(next_tick if not self._queue else None):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _finished(self) -> list[Work]:
        """The finished prefix of the queue, at most a batch of it."""
        batch: list[Work] = []
        for work in self._queue:
            if len(batch) == self._settings.stage.batch or not work.attempt.done():
                break
            batch.append(work)
        return batch

    async def _commit(self, batch: list[Work], outputs: list[Output]) -> None:
        offsets = {work.source: work.record.offset + 1 for work in batch}
        await self._producer.write(outputs, offsets)
        self._delay, self._lost = OUTAGE_DELAY_S[0], 0
        for _ in batch:
            self._queue.popleft()
        self._progress()
        if batch:
            self._released(len(batch))
        if not self._queue:
            self._idle.set()

    async def _attempt(self, record: Received) -> list[Output]:
        """The outputs of one record, whatever happens: of its result, or of its failure."""
        first_at, attempts = utc_now(), 0
        outage_delay, longest = OUTAGE_DELAY_S
        while True:
            attempts += 1
            try:
                return await self._group.process(record)
            except OutageError as outage:
                self._log.warning("waiting out an outage", error=str(outage), retry_in_s=round(outage_delay, 1))
                self._progress()
                await asyncio.sleep(_jittered(outage_delay))
                outage_delay = min(2 * outage_delay, longest)
                attempts -= 1
                continue
            except TransientFault as fault:
                final: RecordFault = fault
                delay = self._retry.delay(fault.reason, attempts)
                if delay is not None:
                    self._log.warning(
                        "attempt failed", reason=fault.reason.value, error=fault.message, retry_in_s=round(delay, 2)
                    )
                    await asyncio.sleep(_jittered(delay))
                    continue
            except RecordFault as fault:
                final = fault
            except FatalError as error:
                self._fatal(error)
                raise asyncio.CancelledError from None
            except Exception as error:  # noqa: BLE001  # a bug of ours on this record must not stop the others
                self._log.exception("processing failed", topic=record.topic, offset=record.offset)
                final = RecordFault(Reason.INTERNAL_ERROR, f"{type(error).__name__}: {error}")
            self._log.warning(
                "record failed",
                topic=record.topic,
                offset=record.offset,
                reason=final.reason.value,
                error=final.message,
                attempts=attempts,
            )
            letter = dead_letter(record, final, self._group.name, attempts, first_at, utc_now())
            return [*self._group.failed(record, final), letter]
