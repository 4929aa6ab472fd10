"""Which partition an object goes to: one of the reconstructor that will be done with it first.

An object takes seconds, and some take five times as long as others: hashing keys would leave GPUs idle while others
queue. How far each partition has been written and done is looked up before the objects of a photo are handed out, who
has it twice a second. So each reconstructor's outstanding objects are known, and how fast it does them: a slow GPU gets
less, one that has stopped gets nothing more, one that has just joined gets the next.

Detectors do not know of each other, and must not all send to the same idle GPU:

- What others have written counts as soon as the broker has it, before their transactions end.
- Of reconstructors that are done as soon, the first one counted from the photo's own place is taken: photos of
  different partitions, which different detectors have, begin at different GPUs.
- What others send in the time that is not seen is known in number. `choose` supposes that some of it, a random part,
  has just gone where it would go itself, and takes the next place.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stream_worker import telemetry, topics
from stream_worker.bootstrap import entry
from stream_worker.closing import close_within, end
from stream_worker.errors import Exit, UserError
from stream_worker.lag import committed, count, objects, owners
from stream_worker.settings import Kafka
from stream_worker.topics import IMAGES, OBJECTS

REFRESH_S = 0.5
FRESH_S = 0.02
"""What was looked up so long ago is new enough."""
LOOK_S = 0.25
COUNT_S = 1.0
FETCH_MS = 20
COUNTED = 8
"""Offsets of a partition that are read to know what they are; of more, a marker more or less does not matter."""
STOP_S = 5.0
LOST_S = 5.0
"""What was sent, and has not been seen for so long, never came: its transaction has failed."""
UNDER_WAY_S = 0.02
"""What others have chosen is seen after so long."""
HALF_LIFE_S = 60.0
"""A GPU's speed is that of the last minute or two, of several objects even where one takes ten seconds."""
PRIOR = 8.0
"""Objects' worth of belief that a reconstructor is as fast as all of them together."""

log = telemetry.get(__name__)


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far the partitions of `objects` have been written and done, at a moment of a monotonic clock, in seconds."""

    ends: Mapping[int, int]
    done: Mapping[int, int]
    waiting: Mapping[int, int]
    """Objects between the two."""
    owners: Mapping[int, str] = field(default_factory=dict)
    """The reconstructor that has a partition; none where nobody has it."""
    at: float = 0.0


@dataclass(slots=True)
class Speed:
    """How long a reconstructor takes for an object: the time in which it had work, and what it did in it."""

    busy_s: float = 0.0
    done: float = 0.0

    def add(self, done: int, busy_s: float) -> None:
        """So many in so much time."""
        kept = 0.5 ** (busy_s / HALF_LIFE_S)
        self.busy_s, self.done = kept * self.busy_s + busy_s, kept * self.done + done

    def slowness(self, of_all: float) -> float:
        """How many times the `of_all` seconds of all reconstructors together an object takes here: a power of two, 1
        for whoever is neither twice as fast nor twice as slow, or all detectors would prefer the same few. It grows
        while nothing gets done.
        """
        return float(2.0 ** int(math.log2((self.busy_s + PRIOR * of_all) / (self.done + PRIOR) / of_all)))


class Outstanding:
    """The pure policy: who has how much to do, and which partition is next."""

    def __init__(self, partitions: int, seed: int | None = None) -> None:
        self._partitions = range(partitions)
        self._waiting = [0] * partitions
        # Of each partition, what was sent and not seen yet: when, and where the partition ended then.
        self._sent: list[deque[tuple[float, int]]] = [deque() for _ in self._partitions]
        self._sent_since = 0
        self._owners: dict[int, str] = {}
        self._speeds: dict[str, Speed] = {}
        self._last = Measurement({}, {}, {})
        self._learnt: Measurement | None = None
        self._others_per_s = 0.0
        self._random = random.Random(seed)  # noqa: S311  # no secret depends on it

    def of(self, partition: int) -> int:
        """Objects that wait in a partition or are being worked on, as far as is known."""
        return self._waiting[partition] + len(self._sent[partition])

    def choose(self, now: float | None = None, place: float = 0.0) -> int:
        """The partition for the next object, which counts as sent there at once.

        `now`: of the measurements' clock; None: nothing is supposed of others. `place`: where to begin among equals,
        from 0 up to 1.
        """
        loads: dict[str, int] = {}
        # While somebody has partitions, the ones that nobody has are not to be waited for.
        for partition in self._owners or self._partitions:
            owner = self._owner(partition)
            loads[owner] = loads.get(owner, 0) + self.of(partition)
        of_all = self._seconds_of_all()
        slowness = {owner: self._speeds.get(owner, Speed()).slowness(of_all) for owner in loads}
        listed = list(loads)

        def soonest(first: int) -> str:
            return min((*listed[first:], *listed[:first]), key=lambda owner: (loads[owner] + 1) * slowness[owner])

        for _ in range(self._supposed(now)):
            loads[soonest(self._random.randrange(len(listed)))] += 1
        owner = soonest(int(place * len(listed)) % len(listed))
        candidates = [partition for partition in self._owners or self._partitions if self._owner(partition) == owner]
        least = min(self.of(partition) for partition in candidates)
        partition = self._random.choice([one for one in candidates if self.of(one) == least])
        at = self._last.at if now is None else now
        self._sent[partition].append((at, self._last.ends.get(partition, 0)))
        self._sent_since += 1
        return partition

    def _owner(self, partition: int) -> str:
        return self._owners.get(partition, f"nobody {partition}")

    def measured(self, found: Measurement) -> None:
        """Take over measured figures."""
        self._last = found
        for partition, end_offset in found.ends.items():
            self._waiting[partition] = found.waiting[partition]
            self._sent[partition] = _unseen(self._sent[partition], end_offset, found.at)
        self._owners = {partition: found.owners[partition] for partition in sorted(found.owners)}
        if self._learnt is None:
            self._learnt = found
        elif found.at - self._learnt.at >= REFRESH_S:
            self._learn(self._learnt, found)
            self._learnt, self._sent_since = found, 0

    def _learn(self, last: Measurement, found: Measurement) -> None:
        """How fast each owner is, and how much the other detectors send."""
        passed_s = found.at - last.at
        before: dict[str, int] = {}
        after: dict[str, int] = {}
        done: dict[str, int] = {}
        for partition, owner in found.owners.items():
            if last.owners.get(partition) != owner:
                continue  # it was somebody else's, whose work says nothing of this one
            before[owner] = before.get(owner, 0) + last.waiting.get(partition, 0)
            after[owner] = after.get(owner, 0) + found.waiting.get(partition, 0)
            moved = found.done.get(partition, 0) - last.done.get(partition, 0)
            done[owner] = done.get(owner, 0) + objects(moved + 1)
        self._speeds = {owner: speed for owner, speed in self._speeds.items() if owner in found.owners.values()}
        for owner, finished in done.items():
            if before[owner] and after[owner]:  # else it was busy for a part of the time, and nobody knows which
                self._speeds.setdefault(owner, Speed()).add(finished, passed_s)
        written = sum(end_offset - last.ends.get(partition, end_offset) for partition, end_offset in found.ends.items())
        others = max(0, objects(written) - self._sent_since) / passed_s
        self._others_per_s = (self._others_per_s + others) / 2

    def _supposed(self, now: float | None) -> int:
        """How many objects of others to suppose: none to twice as many as they send in the time not seen."""
        if now is None:
            return 0
        unseen = self._others_per_s * (max(0.0, now - self._last.at) + UNDER_WAY_S)
        return round(self._random.uniform(0, 2 * min(unseen, len(self._partitions))))

    def _seconds_of_all(self) -> float:
        done = sum(speed.done for speed in self._speeds.values())
        return sum(speed.busy_s for speed in self._speeds.values()) / done if done else 1.0


def _unseen(sent: deque[tuple[float, int]], end_offset: int, at: float) -> deque[tuple[float, int]]:
    """What of a partition's objects under way has neither been seen there nor been given up, now that it ends here.

    The record that one was seen by is not what the next one waits for: each needs two offsets of its own, one of
    them its transaction's marker's.
    """
    kept: deque[tuple[float, int]] = deque()
    seen: int | None = None
    for sent_at, ended in sent:
        needed = ended if seen is None else max(ended, seen + 2 * (len(kept) + 1))
        if kept or not (end_offset > needed or at > sent_at + LOST_S):
            kept.append((sent_at, needed))
        else:
            seen = needed
    return kept


class Balancer:
    """Keeps `Outstanding` up to date for the topic `objects` and its group."""

    def __init__(self, kafka: Kafka, group: str) -> None:
        self._kafka = kafka
        self._group = kafka.prefix + group
        self._topic = kafka.prefix + OBJECTS
        self._sources: list[TopicPartition] = []
        self._photos = 1
        self._outstanding: Outstanding | None = None
        self._owners: dict[int, str] = {}
        # Of each partition, what was read: from where to where, and how many objects there are.
        self._counted: dict[int, tuple[int, int, int]] = {}
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._consumer: AIOKafkaConsumer | None = None
        # One of its own: a broker answers nothing behind a fetch that waits for records.
        self._counter: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, and measure from now on. Call `stop` also where this fails.

        Raises UserError where the broker or the topic is missing.
        """
        counts = await topics.counts(self._kafka)
        if not counts.get(OBJECTS):
            raise UserError(f"topic {self._topic} is missing", Exit.TOPICS)
        self._sources = [TopicPartition(self._topic, partition) for partition in range(counts[OBJECTS])]
        self._photos = counts.get(IMAGES, 1)
        self._outstanding = Outstanding(len(self._sources))
        way_in = await entry(self._kafka)
        self._consumer = AIOKafkaConsumer(**way_in)
        await self._consumer.start()
        self._counter = AIOKafkaConsumer(**way_in, fetch_max_wait_ms=FETCH_MS)
        await self._counter.start()
        self._admin = AIOKafkaAdminClient(**way_in)
        await self._admin.start()
        self._task = asyncio.create_task(self._refresh())

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            await end(self._task)
        if self._looking is not None:
            await end(self._looking)
        for consumer in (self._consumer, self._counter):
            if consumer is not None:
                await close_within(STOP_S, consumer.stop())
        if self._admin is not None:
            await close_within(STOP_S, self._admin.close())

    async def look(self) -> None:
        """Know what is outstanding now, before `choose`. A broker that does not say so soon is not waited for."""
        if time.monotonic() - self._looked_at < FRESH_S:
            return
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._measure_if_possible(), name="look at objects")
        # Others may wait for the same look: it goes on without us.
        await asyncio.wait({self._looking}, timeout=LOOK_S)

    def choose(self, lane: int = 0) -> int:
        """The partition for the next object of a photo from this partition of `images`."""
        assert self._outstanding is not None, "start() first"
        return self._outstanding.choose(time.monotonic(), lane / self._photos)

    async def _refresh(self) -> None:
        while True:
            await self._measure_if_possible(whole=True)
            await asyncio.sleep(REFRESH_S)

    async def _measure_if_possible(self, *, whole: bool = False) -> None:
        """`whole`: who has what, and what is in doubt, too."""
        assert self._admin is not None
        assert self._outstanding is not None
        try:
            async with asyncio.timeout(self._kafka.request_timeout_ms / 1000):
                if whole:
                    have = await owners(self._admin, self._group)
                    self._owners = {at.partition: owner for at, owner in have.items() if at.topic == self._topic}
                found = await self._measure()
                if whole and await self._count(found):
                    self._outstanding.measured(replace(found, waiting=self._waiting(found.done, found.ends)))
        except (KafkaError, TimeoutError, OSError) as error:
            # The last figures and what we send go on to balance well enough.
            log.debug("outstanding work could not be measured", error=repr(error))

    async def _measure(self) -> Measurement:
        assert self._consumer is not None
        assert self._admin is not None
        assert self._outstanding is not None
        began = time.monotonic()
        # What is written counts also where its transaction is open: the consumer is not read_committed.
        done, ends = await asyncio.gather(
            committed(self._admin, self._consumer, self._group, self._sources),
            self._consumer.end_offsets(self._sources),
        )
        self._looked_at = began
        written = {source.partition: offset for source, offset in ends.items()}
        committed_to = {source.partition: offset for source, offset in done.items()}
        waiting = self._waiting(committed_to, written)
        found = Measurement(ends=written, done=committed_to, waiting=waiting, owners=self._owners, at=began)
        self._outstanding.measured(found)
        return found

    def _waiting(self, done: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, int]:
        """Objects of each partition: what was counted, and what its growth since then comes to."""
        waiting = {}
        for partition, written in ends.items():
            first, last, counted = self._counted.get(partition, (-1, -1, 0))
            if first == done[partition] and last <= written:
                waiting[partition] = counted + objects(written - last + 1)
            else:
                waiting[partition] = objects(written - done[partition])
        return waiting

    async def _count(self, found: Measurement) -> bool:
        """Read what is in doubt; whether there was any. Where transactions have run side by side, a partition that is
        done ends with the markers of several, which look like an object."""
        assert self._counter is not None
        doubtful = {
            partition: (found.done[partition], written)
            for partition, written in found.ends.items()
            if 1 < written - found.done[partition] <= COUNTED
            and self._counted.get(partition, (0, 0, 0))[:2] != (found.done[partition], written)
        }
        for partition, (first, last) in doubtful.items():
            source = TopicPartition(self._topic, partition)
            objects_there = await count(self._counter, {source: first}, {source: last}, COUNTED, COUNT_S)
            self._counted[partition] = first, last, objects_there
        return bool(doubtful)
