"""The aggregator group: feeds the join from its topics, and writes outcomes and state in one transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from stream_worker import contract, metrics, telemetry, topics
from stream_worker.aggregator import changelog, outcome
from stream_worker.aggregator.join import Change, Join, Sizes, Step
from stream_worker.aggregator.kept import KeptLanes
from stream_worker.aggregator.memory import STATES, State
from stream_worker.errors import FatalError, Reason, RecordFault, UserError
from stream_worker.events import (
    CompletedImageEvent,
    DetectionEvent,
    Failure,
    JoinFloorEvent,
    ReconstructionEvent,
    utc_now,
)
from stream_worker.headers import cloud_event
from stream_worker.records import Headers, Output, Received
from stream_worker.security import renewed
from stream_worker.settings import Settings

AT_ONCE = 4
"""Lanes restored at the same time: what is read of a lane takes as much again as what the lane will hold."""

KEPT_S = 60.0
"""A lane's state is kept for so long where the lane was taken away in a rebalance: most come back at once."""

FED_BY: dict[State, str] = {"awaiting_results": topics.DETECTIONS, "awaiting_manifest": topics.RECONSTRUCTIONS}
"""The input that makes images wait so."""

log = telemetry.get(__name__)


class Aggregator:
    """The join as a consumer group. A lane's state lives here while the lane is open, and in the changelog always."""

    name = "aggregator"
    topics: tuple[str, ...] = (topics.DETECTIONS, topics.RECONSTRUCTIONS)
    longest_s = 0.0

    def __init__(self, settings: Settings, worker: str | None = None, clock: Callable[[], datetime] = utc_now) -> None:
        """`worker` names this process in the headers of its events.

        Raises UserError where the settings name no broker.
        """
        self._source = f"{self.name}/{worker}" if worker else self.name
        if settings.kafka.bootstrap_servers is None:
            raise UserError("setting kafka.bootstrap_servers: the aggregator needs a broker")
        self._kafka = settings.kafka
        self._bootstrap_servers = settings.kafka.bootstrap_servers
        self._changelog = settings.kafka.prefix + topics.CHANGELOG
        self._request_timeout_ms = settings.kafka.request_timeout_ms
        self._largest = settings.kafka.max_event_bytes
        self._grace = timedelta(seconds=settings.aggregator.grace_s)
        self._clock = clock
        self._memory = settings.aggregator.memory_mb * 2**20
        self._lanes: dict[int, Join] = {}
        self._kept = KeptLanes(KEPT_S, self._share_out)
        self._restoring = asyncio.Semaphore(AT_ONCE)
        self._refused: dict[int, frozenset[str]] = {}
        self._oldest: dict[int, datetime] = {}
        """Since when each lane's oldest image has been open, as of its last tick."""
        # A lane holds twice as many at most (`Lane.limit`), and that is no more than one transaction holds: what `tick`
        # says builds on every record that was processed, so its outputs must not be committed before theirs.
        self.window = settings.stage.batch // 2
        for state in STATES:
            metrics.JOIN_IMAGES.labels(state).set_function(partial(self._images, state))
        metrics.JOIN_BYTES.set_function(self._bytes)
        metrics.JOIN_LIMIT_BYTES.set(self._memory)
        metrics.JOIN_FULL_LANES.set_function(lambda: sum(map(bool, list(self._refused.values()))))
        metrics.JOIN_OLDEST_SECONDS.set_function(self._oldest_s)
        self._queued = metrics.PHASE_SECONDS.labels(self.name, "queue")

    async def start(self) -> None:
        """Nothing to get ready: lanes are restored one by one."""

    async def stop(self) -> None:
        """Let go of what was kept."""
        self._kept.clear()

    async def open(self, lane: int) -> None:
        """Restore a lane: from memory, where nobody has had it since it was ours, else from the changelog.

        Raises what `changelog.mark` and `changelog.restore` raise.
        """
        async with self._restoring:
            log.info("restoring", lane=lane)
            barrier = await self._mark(lane)
            kept = self._kept.take(lane, barrier)
            join = kept or await self._restored(lane, barrier)
        self._lanes[lane] = join
        self._share_out()
        size = {"images": sum(join.memory.images.values()), "bytes": join.memory.bytes.total()}
        log.info("restored", lane=lane, kept=kept is not None, **size)

    async def seal(self, lane: int) -> None:
        """Mark the end of what we know of a lane. Raises what `changelog.mark` raises."""
        self._kept.sealed(lane, await self._mark(lane))

    async def close(self, lane: int, *, sealed: bool = False) -> None:
        """Forget a lane, or keep it for a while. What was not committed is gone with it."""
        self._refused.pop(lane, None)
        self._oldest.pop(lane, None)
        join = self._lanes.pop(lane, None)
        if join is not None:
            self._kept.keep(lane, join if sealed else None)
            self._share_out()

    async def _mark(self, lane: int) -> int:
        return await changelog.mark(
            self._bootstrap_servers,
            self._changelog,
            lane,
            patience_s=1.5 * self._request_timeout_ms / 1000,
            request_timeout_ms=self._request_timeout_ms,
            security=renewed(self._kafka),
        )

    async def _restored(self, lane: int, barrier: int) -> Join:
        join = Join(self._grace, self._memory)
        await changelog.restore(
            self._bootstrap_servers,
            self._changelog,
            lane,
            barrier,
            join.take,
            patience_s=1.5 * self._request_timeout_ms / 1000,
            request_timeout_ms=self._request_timeout_ms,
            security=renewed(self._kafka),
        )
        join.taken()
        return join

    async def process(self, record: Received) -> list[Output]:
        """Feed one record to the join. Awaits nothing, so records take effect in the order they are given."""
        join = self._lane(record.partition)
        self._queued.observe(max(0.0, time.time() - record.timestamp_ms / 1000))
        if record.topic == topics.DETECTIONS:
            manifest = self._storable(contract.decode(DetectionEvent, record.value), len(record.value or b""))
            step = join.manifest(manifest, self._clock())
        else:
            result = contract.decode(ReconstructionEvent, record.value)
            # Not part of the outcome: no need to hold it, or to restore it.
            step = join.result(result.model_copy(update={"settings": None, "peak_gpu_bytes": None}), self._clock())
        return self._outputs(step, record.partition, record.headers)

    def failed(self, record: Received, fault: RecordFault) -> list[Output]:
        """Nothing: a record that is no event says nothing of any image. The deadline sees to its image."""
        return []

    async def tick(self, lane: int) -> list[Output]:
        """Complete what is past its deadline, forget what is past its grace."""
        join = self._lane(lane)
        step = join.tick(self._clock())
        metrics.JOIN_EXPIRED.inc(len(step.outcomes))
        if (since := join.open_since()) is None:
            self._oldest.pop(lane, None)
        else:
            self._oldest[lane] = since
        return self._outputs(step, lane)

    def full(self, lane: int) -> frozenset[str]:
        """The inputs that would make the lane hold more than its part of the memory."""
        join = self._lanes.get(lane)
        if join is None:
            return frozenset()
        refused = frozenset(topic for state, topic in FED_BY.items() if join.memory.full(state))
        if refused != self._refused.get(lane, frozenset()):
            self._refused[lane] = refused
            log.warning("lane is full" if refused else "lane is not full any more", lane=lane, of=sorted(refused))
        return refused

    def sizes(self) -> dict[int, Sizes]:
        """How much each open lane holds."""
        return {lane: join.sizes() for lane, join in self._lanes.items()}

    def _share_out(self) -> None:
        """Equal parts: keys spread evenly, and no lane can take another's room. What is kept has a part as well."""
        for join in self._lanes.values():
            join.memory.allow(self._memory // (len(self._lanes) + len(self._kept)))

    # The gauges are read from another thread, which must not meet a dictionary that changes.

    def _images(self, state: State) -> float:
        return sum(join.memory.images[state] for join in list(self._lanes.values()))

    def _bytes(self) -> float:
        return sum(join.memory.bytes.total() for join in list(self._lanes.values()))

    def _oldest_s(self) -> float:
        since = min(list(self._oldest.values()), default=None)
        return 0.0 if since is None else max(0.0, (self._clock() - since).total_seconds())

    def _lane(self, lane: int) -> Join:
        join = self._lanes.get(lane)
        if join is None:
            raise FatalError(f"aggregator: lane {lane} is not open")
        return join

    def _outputs(self, step: Step, lane: int, trace: Headers = ()) -> list[Output]:
        metrics.JOIN_FORGOTTEN_EARLY.inc(step.forgotten_early)
        return [
            *(self._completed(event, trace) for event in step.outcomes),
            *(self._changed(change, lane, trace) for change in step.changes),
            *([self._changed(step.floor, lane, trace)] if step.floor is not None else []),
        ]

    def _changed(self, change: Change | JoinFloorEvent, lane: int, trace: Headers) -> Output:
        """A change of state as a record on the lane's own partition."""
        key, value = changelog.record(change)
        event = change.event if isinstance(change, Change) else change
        headers = cloud_event(event, self._source, trace) if event is not None else ()
        return Output(topics.CHANGELOG, key, value, headers, partition=lane)

    def _completed(self, event: CompletedImageEvent, trace: Headers) -> Output:
        """An outcome as a record. One that no record can hold is published as failed: never silence, never a loop."""
        try:
            value = contract.encode(event)
            why = f"the outcome takes {len(value)} bytes, and an event may have {self._largest}"
        except RecordFault as fault:
            value, why = b"", fault.message
        if not 0 < len(value) <= self._largest:
            event = outcome.unwritable(event, why)
            value = contract.encode(event)
        metrics.IMAGE_SECONDS.labels(event.status).observe(event.times["total_s"])
        return Output(topics.COMPLETED, event.image_id.encode(), value, cloud_event(event, self._source, trace))

    def _storable(self, manifest: DetectionEvent, size: int) -> DetectionEvent:
        """The manifest, or a failed one in place of one that the changelog could not hold."""
        if size <= self._largest:
            return manifest
        why = Failure(
            code=Reason.EVENT_TOO_LARGE,
            message=f"the manifest takes {size} bytes, and an event may have {self._largest}",
        )
        return manifest.model_copy(update={"status": "failed", "reason": why, "objects": [], "metadata": None})
