"""What a worker looks at for its metrics, beside its work: what waits in each partition, and how late its loop is.

Nothing on a record's way pays for it. The consumer knows the end of a partition from each of its fetches; the broker is
asked only for those that nothing was fetched from lately: a lane that is full takes no more, while more comes in.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_worker import metrics, telemetry
from stream_worker.lane import Lane

BEAT_S = 1.0
BEATS = 15
"""Beats that the loop's delay is the worst of: as many as a scrape is usually away."""
ASK_S = 5.0
"""The broker's answer is waited for no longer: what is known will do."""

log = telemetry.get(__name__)

Lanes = Callable[[], Collection[Lane]]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in a partition: how many records, up to which position they were read, and since when (ms)."""

    records: int
    position: int
    since_ms: float | None

    def age_s(self, now_ms: float) -> float:
        """How long the oldest has waited; 0 where none does, or its clock is ahead of ours."""
        return 0.0 if self.since_ms is None else max(0.0, (now_ms - self.since_ms) / 1000)


def backlog(
    end: int, position: int, in_hand: int, oldest_ms: float | None, before: Backlog | None, now_ms: float
) -> Backlog:
    """What waits in a partition.

    `end` and `position` are those of the consumer; `in_hand` were read and are not committed, the oldest of them
    written at `oldest_ms`. A record that is not read yet has waited since `before`, if that was at the same position.
    """
    records = max(0, end - position) + in_hand
    if not records:
        return Backlog(0, position, None)
    if oldest_ms is not None:
        return Backlog(records, position, oldest_ms)
    known = before.since_ms if before is not None and before.position == position else None
    return Backlog(records, position, now_ms if known is None else known)


class Observation:
    """Looks for as long as `run` runs."""

    def __init__(
        self,
        stage: str,
        window: int,
        watchdog_s: float,
        lanes: Lanes,
        room: Callable[[], int],
        still_s: Callable[[], float],
    ) -> None:
        """`room`: how many records more may be worked on. `still_s`: seconds since there was progress.

        These and `lanes` are called from the thread that serves metrics, too: also while the loop stands still.
        """
        self._stage = stage
        self._lanes = lanes
        self._late: deque[float] = deque([0.0], BEATS)
        self._due: float | None = None
        self._known: dict[tuple[str, int], Backlog] = {}
        metrics.IN_FLIGHT_LIMIT.labels(stage).set(window)
        metrics.WATCHDOG_SECONDS.labels(stage).set(watchdog_s)
        metrics.IN_FLIGHT.labels(stage).set_function(lambda: window - room())
        metrics.PROGRESS_AGE_SECONDS.labels(stage).set_function(still_s)
        metrics.LOOP_DELAY_SECONDS.labels(stage).set_function(self.delay_s)
        metrics.LANES.labels(stage, "open").set_function(lambda: sum(lane.is_open for lane in lanes()))
        metrics.LANES.labels(stage, "opening").set_function(lambda: sum(not lane.is_open for lane in lanes()))

    def delay_s(self) -> float:
        """How late the loop was at the worst of the last beats, or is now."""
        due = self._due
        return max(0.0, 0.0 if due is None else time.monotonic() - due, *self._late)

    async def run(self, consumer: AIOKafkaConsumer, refresh_s: float) -> None:
        """Look every `refresh_s`, until cancelled. No error of it is ever the worker's."""
        look_at = 0.0
        try:
            while True:
                await self._beat()
                if (now := time.monotonic()) < look_at:
                    continue
                look_at = now + refresh_s
                try:
                    await self._look(consumer, refresh_s)
                except Exception:  # figures only: work goes on without them
                    log.exception("what waits could not be looked at")
        finally:
            self._due = None
            self._tell({}, time.time() * 1000)

    async def _beat(self) -> None:
        self._due = time.monotonic() + BEAT_S
        await asyncio.sleep(BEAT_S)
        self._late.append(time.monotonic() - self._due)
        self._due = None

    async def _look(self, consumer: AIOKafkaConsumer, refresh_s: float) -> None:
        stale_ms = (time.time() - refresh_s) * 1000
        asked = await _ends(
            consumer, [source for source in _open(self._lanes()) if _seen_ms(consumer, source) < stale_ms]
        )
        # No await from here: lanes must not come and go meanwhile.
        now_ms, found = time.time() * 1000, {}
        for lane in self._lanes():
            for source, topic in lane.sources.items():
                before = self._known.get((topic, source.partition))
                if not lane.is_open:
                    # Its position is none yet, and what it held waits again.
                    waits = before
                elif (position := _position(consumer, source)) is None:
                    waits = before
                else:
                    end = max(asked.get(source, 0), consumer.highwater(source) or 0)
                    waits = backlog(end, position, *lane.in_hand(source), before, now_ms)
                if waits is not None:
                    found[topic, source.partition] = waits
        self._tell(found, now_ms)

    def _tell(self, found: Mapping[tuple[str, int], Backlog], now_ms: float) -> None:
        for topic, partition in self._known.keys() - found.keys():
            for gauge in (metrics.LAG_RECORDS, metrics.OLDEST_WAITING_SECONDS):
                gauge.remove(self._stage, topic, str(partition))
        for (topic, partition), waits in found.items():
            metrics.LAG_RECORDS.labels(self._stage, topic, str(partition)).set(waits.records)
            metrics.OLDEST_WAITING_SECONDS.labels(self._stage, topic, str(partition)).set(waits.age_s(now_ms))
        self._known = dict(found)


def _open(lanes: Iterable[Lane]) -> list[TopicPartition]:
    return [source for lane in lanes if lane.is_open for source in lane.sources]


async def _ends(consumer: AIOKafkaConsumer, sources: list[TopicPartition]) -> Mapping[TopicPartition, int]:
    """Where partitions end, by their brokers; nothing where these don't say."""
    with contextlib.suppress(KafkaError, TimeoutError):
        async with asyncio.timeout(ASK_S):
            ends: Mapping[TopicPartition, int] = await consumer.end_offsets(sources) if sources else {}
            return ends
    return {}


def _seen_ms(consumer: AIOKafkaConsumer, source: TopicPartition) -> float:
    """When a fetch last said where the partition ends."""
    if source not in consumer.assignment():
        return 0.0
    seen: int | None = consumer.last_poll_timestamp(source)
    return seen or 0.0


def _position(consumer: AIOKafkaConsumer, source: TopicPartition) -> int | None:
    """Where the consumer goes on, without waiting for it as `consumer.position` would."""
    assignment = consumer._subscription.subscription.assignment
    if assignment is None or source not in assignment.tps:
        return None
    state = assignment.state_value(source)
    return int(state.position) if state.has_valid_position else None
