"""How every group runs: poll, hand records to lanes, follow rebalances, and end the process where going on is unsafe.

The groups differ only in `process` (see `records.Group`); what happens to one partition is in `lane.py`, and
the transaction itself in `transaction.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaConnectionError, KafkaError, OffsetOutOfRangeError, RecordTooLargeError

from stream_worker import metrics, telemetry, topics
from stream_worker.attempts import Attempts
from stream_worker.bootstrap import entry
from stream_worker.closing import close_within, end
from stream_worker.errors import Exit, FatalError, UserError
from stream_worker.eviction import Evictions
from stream_worker.lane import Lane
from stream_worker.observation import Observation
from stream_worker.outages import Outages
from stream_worker.records import Group, Received
from stream_worker.settings import Settings
from stream_worker.topics import HEADROOM_BYTES
from stream_worker.transaction import require_compiled_client

POLL_MS = 200
FETCH_WAIT_MS = 100
"""A fetch under way delays the first fetch of a lane that has just been opened by this much, at most."""
ROOM_S = 1.0
"""Without room for a record: when to look again, if nobody says that there is some. Less than any poll interval."""
OUT_OF_RANGE_S = 0.3
"""Before a node is asked again that has no record at a position. Other lanes are polled as seldom meanwhile."""
STOP_S = 15.0
LEAVE_S = 3.0

log = telemetry.get(__name__)


class Stage(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """One process of a group. `run` returns when it was told to stop, and raises FatalError where it must end."""

    def __init__(
        self,
        group: Group,
        settings: Settings,
        *,
        instance: str | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`instance` names a static member of the group; `ready` is called once, when the group is joined."""
        self._group = group
        self._settings = settings
        self._instance = instance
        kafka = settings.kafka
        self._evictions = Evictions(min(kafka.session_timeout_ms, kafka.rebalance_timeout_ms) / 1000)
        self._ready: Callable[[], None] | None = ready
        self._logical = {settings.kafka.prefix + topic: topic for topic in group.topics}
        self._lanes: dict[int, Lane] = {}
        self._outages = Outages()
        self._attempts = Attempts(group, settings.stage, self._outages, progress=self._progress, fatal=self._end)
        self._capacity = group.window
        self._released = asyncio.Event()
        self._stopping = asyncio.Event()
        self._fatal: FatalError | None = None
        self._stuck = False
        self._progress_at = time.monotonic()
        self._watchdog_s = settings.stage.watchdog_s + group.longest_s
        self._observation = Observation(
            group.name,
            group.window,
            self._watchdog_s,
            lanes=lambda: list(self._lanes.values()),
            room=lambda: self._capacity,
            still_s=lambda: time.monotonic() - self._progress_at,
        )
        self._consumer: AIOKafkaConsumer

    def stop(self) -> None:
        """Drain and return from `run`. May be called from a signal handler of the loop."""
        self._stopping.set()
        self._released.set()

    async def run(self) -> None:
        """Work until `stop`. Raises UserError (no broker, no topics, no weights) or FatalError."""
        require_compiled_client()
        await topics.require(self._settings.kafka)
        try:
            if not await self._started():
                return
            await self._join()
            beside = [asyncio.create_task(self._watch())]
            if self._settings.metrics.port is not None:
                looking = self._observation.run(self._consumer, self._settings.metrics.refresh_s)
                beside.append(asyncio.create_task(looking, name="observation"))
            try:
                await self._poll()
            finally:
                for task in beside:
                    await end(task)
                await self._leave()
        finally:
            await self._group.stop()
        if self._fatal is not None:
            raise self._fatal

    # ------------------------------------------------------------------ the loop

    async def _started(self) -> bool:
        """Load what the group needs, which may take minutes; False where we were told to stop meanwhile."""
        starting = asyncio.create_task(self._group.start())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            await end(starting)
            return False
        starting.result()
        return True

    async def _join(self) -> None:
        kafka = self._settings.kafka
        self._consumer = AIOKafkaConsumer(
            **await entry(kafka),
            group_id=kafka.prefix + self._group.name,
            group_instance_id=self._instance,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",  # see `_out_of_range`
            # Several input topics of a lane must come together: ranges of equal topics are equal.
            partition_assignment_strategy=[RangePartitionAssignor],
            session_timeout_ms=kafka.session_timeout_ms,
            heartbeat_interval_ms=max(500, min(3000, kafka.session_timeout_ms // 5)),
            rebalance_timeout_ms=kafka.rebalance_timeout_ms,
            request_timeout_ms=max(kafka.request_timeout_ms, kafka.session_timeout_ms + 5000),
            max_poll_interval_ms=kafka.max_poll_interval_ms,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            # A record larger than this would be skipped by aiokafka with an error.
            max_partition_fetch_bytes=2 * (kafka.max_event_bytes + HEADROOM_BYTES),
        )
        try:
            await self._consumer.start()
        except KafkaConnectionError as error:
            await self._consumer.stop()
            raise UserError(f"no Kafka broker answers: {error}", Exit.BROKER) from None
        # Afterwards: `start` would wait for an assignment, however long the others take.
        self._consumer.subscribe(topics=list(self._logical), listener=self)

    async def _poll(self) -> None:
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                sources = self._pollable()
                if self._capacity <= 0 or sources == set():
                    await self._wait_for_room()
                    continue
                polling = asyncio.create_task(self._poll_once(sources), name="poll")
                # getmany waits for a rebalance without a limit of its own, and we may be told to stop meanwhile.
                await asyncio.wait({polling, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not polling.done():
                    await end(polling)
                    return
                await self._refused(polling.exception())
        finally:
            stopping.cancel()

    def _pollable(self) -> set[TopicPartition] | None:
        """The sources to poll, None where no lane is full: aiokafka then also hands out what comes meanwhile."""
        full = {source for lane in self._lanes.values() for source in lane.full()}
        return self._consumer.assignment() - full if full else None

    async def _wait_for_room(self) -> None:
        """Wait until a record may be taken again. Work may take as long as it takes, and this worker is alive."""
        self._released.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROOM_S):
                await self._released.wait()
        # What aiokafka judges by; a poll of no partition at all is not to be had.
        with self._consumer._subscription.fetch_context():
            pass

    async def _poll_once(self, sources: set[TopicPartition] | None) -> None:
        received = await self._consumer.getmany(*(sources or ()), timeout_ms=POLL_MS, max_records=self._capacity)
        # No await from here to the lanes: a gate that opens meanwhile could let stale records through.
        for source, records in received.items():
            self._hand_over(source, records)

    async def _refused(self, error: BaseException | None) -> None:
        """What an error of a poll means."""
        if error is None:
            return
        if isinstance(error, OffsetOutOfRangeError):
            await self._out_of_range(error.args[0])
            return
        if isinstance(error, RecordTooLargeError) or not isinstance(error, KafkaError):
            self._end(FatalError(f"polling failed: {type(error).__name__}: {error}"))
            return
        log.warning("polling failed", error=f"{type(error).__name__}: {error}")
        await asyncio.sleep(1.0)  # the broker's answer was an error: don't ask in a tight loop

    async def _out_of_range(self, positions: Mapping[TopicPartition, int]) -> None:
        """A node says that it has no such positions.

        One that was stopped, or cut off, believes for a while that it leads still, and its log ends before what was
        committed meanwhile. To go back to the beginning, as aiokafka would, is to do all of the topic again. Only
        where a log begins later, its oldest records having been deleted, is there nothing but to go on there.
        """
        await asyncio.sleep(OUT_OF_RANGE_S)
        self._consumer._client.force_metadata_update()
        begins: Mapping[TopicPartition, int] = {}
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(self._settings.kafka.request_timeout_ms / 1000):
                begins = await self._consumer.beginning_offsets(positions)
        for source, offset in positions.items():
            # Its lane may have gone meanwhile, or have begun anew from where it has committed: that stays.
            if source not in self._consumer.assignment() or await self._consumer.position(source) != offset:
                continue
            place = {"topic": self._logical[source.topic], "partition": source.partition, "offset": offset}
            if offset < begins.get(source, 0):
                log.error("records were deleted before they were done", **place, goes_on_at=begins[source])
                self._consumer.seek(source, begins[source])
            else:
                log.warning("a node does not have this position yet, or not any more: asking again", **place)

    def _hand_over(self, source: TopicPartition, records: list[ConsumerRecord]) -> None:
        lane = self._lanes.get(source.partition)
        if lane is None:
            return
        topic = self._logical[source.topic]
        taken = lane.accept(source, (_received(topic, record) for record in records))
        self._capacity -= taken
        if taken:
            self._progress()

    def _release(self, count: int) -> None:
        self._capacity += count
        self._released.set()

    def _progress(self) -> None:
        self._progress_at = time.monotonic()

    def _end(self, error: FatalError) -> None:
        if self._fatal is None:
            self._fatal = error
            log.error("this worker ends", error=str(error))
        self.stop()

    async def _leave(self) -> None:
        drain_s = 0.0 if self._fatal else self._settings.stage.drain_s
        try:
            async with asyncio.timeout(drain_s + STOP_S):
                await self._close_lanes(drain_s, orderly=not self._stuck)
        except TimeoutError:
            self._end(FatalError("giving the lanes up took too long"))
        if not await close_within(LEAVE_S, self._consumer.stop()):
            # In the middle of a rebalance, or frozen (aiokafka #773). Nothing is in hand any more: just go.
            log.info("left the group without waiting for its answer")

    # ------------------------------------------------------------------ rebalances

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Every rebalance takes everything away: give all lanes up, within the drain's time."""
        self._evictions.revoked(time.monotonic())
        await self._close_lanes(self._settings.stage.drain_s, returning=True)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Make a lane of each partition number. They open in tasks of their own: no heartbeat is sent meanwhile."""
        evicted = self._evictions.assigned(self._consumer._coordinator.member_id, time.monotonic())
        if evicted and self._instance is not None:
            self._end(FatalError(f"another process seems to use the name {self._instance}: give each its own --name"))
            return
        numbers: dict[int, set[str]] = {}
        for source in assigned:
            numbers.setdefault(source.partition, set()).add(source.topic)
        for number, found in sorted(numbers.items()):
            if found != set(self._logical):
                self._end(FatalError(f"partition {number} was assigned without {set(self._logical) - found}"))
                return
            self._lanes[number] = Lane(
                number,
                self._group,
                self._settings,
                self._consumer,
                self._attempts,
                self._outages,
                progress=self._progress,
                released=self._release,
                fatal=self._end,
            )
        metrics.REBALANCES.labels(self._group.name).inc()
        log.info("assigned", lanes=sorted(numbers))
        self._progress()
        if self._ready is not None:
            self._ready()
            self._ready = None

    async def _close_lanes(self, drain_s: float, *, orderly: bool = True, returning: bool = False) -> None:
        lanes, self._lanes = self._lanes, {}
        if lanes:
            closing = (lane.close(drain_s, orderly=orderly, returning=returning) for lane in lanes.values())
            results = await asyncio.gather(*closing, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    self._end(FatalError(f"a lane did not close: {type(result).__name__}: {result}"))

    # ------------------------------------------------------------------ the watchdog

    async def _watch(self) -> None:
        """End the process when work waits and nothing moves: aiokafka shows no health of its own (#1154, #718)."""
        while True:
            await asyncio.sleep(self._watchdog_s / 10)
            still = time.monotonic() - self._progress_at
            if still < self._watchdog_s:
                continue
            if not await self._work_waits():
                self._progress()
                continue
            faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
            for task in asyncio.all_tasks():
                task.print_stack(limit=3, file=sys.stderr)
            self._stuck = True
            self._end(FatalError(f"no progress for {still:.0f} s while work waits"))
            return

    async def _work_waits(self) -> bool:
        if not all(lane.idle for lane in self._lanes.values()):
            return True
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(self._settings.kafka.request_timeout_ms / 1000):
                sources = self._pollable()
                ends = await self._consumer.end_offsets(self._consumer.assignment() if sources is None else sources)
                positions = {source: await self._consumer.position(source) for source in ends}
            return any(end > positions[source] for source, end in ends.items())
        return False  # the broker is away: that is an outage, not our standstill


def _received(topic: str, record: ConsumerRecord) -> Received:
    return Received(
        topic=topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )
