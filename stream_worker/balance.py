"""Which partition an object goes to: one of the reconstructor that will be done with it first.

An object takes seconds, and some take five times as long as others: hashing keys would leave GPUs idle while others
queue. What is known, twice a second, is how far each partition has been written and done, and who has it. So each
reconstructor's outstanding objects are known, and how fast it does them: a slow GPU gets less, one that has stopped
gets nothing more, one that has just joined gets the next. What this process has sent since counts at once.

Detectors do not know of each other, and must not all send to the same idle GPU. What the others send between two
measurements is known in number: `choose` supposes that some of it, a random part, has just gone where it would go
itself, and takes the next place. Alone, a detector supposes nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stream_worker import telemetry, topics
from stream_worker.bootstrap import answering
from stream_worker.closing import close_within, end
from stream_worker.errors import Exit, UserError
from stream_worker.lag import committed, objects, owners
from stream_worker.settings import Kafka
from stream_worker.topics import OBJECTS

REFRESH_S = 0.5
STOP_S = 5.0
UNDER_WAY_S = 0.1
"""What others have chosen is seen after so long: when their transactions have ended."""
HALF_LIFE_S = 60.0
"""A GPU's speed is that of the last minute or two, of several objects even where one takes ten seconds."""
PRIOR = 2.0
"""Objects' worth of belief that a reconstructor is as fast as all of them together."""

log = telemetry.get(__name__)


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far the partitions of `objects` have been written and done, at a moment of a monotonic clock, in seconds."""

    ends: Mapping[int, int]
    done: Mapping[int, int]
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

    def seconds(self, of_all: float) -> float:
        """An object, where all reconstructors together take `of_all`. It grows while nothing gets done."""
        return (self.busy_s + PRIOR * of_all) / (self.done + PRIOR)


class Outstanding:
    """The pure policy: who has how much to do, and which partition is next."""

    def __init__(self, partitions: int, seed: int | None = None) -> None:
        self._waiting = [0] * partitions
        # What was sent shortly before a measurement may not be in it yet: it counts until the next one.
        self._sent = [0] * partitions
        self._sent_before = [0] * partitions
        self._owners: list[str] = [f"nobody {partition}" for partition in range(partitions)]
        self._speeds: dict[str, Speed] = {}
        self._last: Measurement | None = None
        self._others_per_s = 0.0
        self._random = random.Random(seed)  # noqa: S311  # no secret depends on it

    def of(self, partition: int) -> int:
        """Objects that wait in a partition or are being worked on, as far as is known."""
        return self._waiting[partition] + self._sent[partition] + self._sent_before[partition]

    def choose(self, now: float | None = None) -> int:
        """The partition for the next object, which counts as sent there at once. `now`: of the measurements' clock."""
        loads: dict[str, int] = {}
        for partition, owner in enumerate(self._owners):
            loads[owner] = loads.get(owner, 0) + self.of(partition)
        of_all = self._seconds_of_all()
        seconds = {owner: self._speeds.get(owner, Speed()).seconds(of_all) for owner in loads}

        def soonest() -> str:
            ends = {owner: (load + 1) * seconds[owner] for owner, load in loads.items()}
            least = min(ends.values())
            return self._random.choice([owner for owner, end in ends.items() if end <= least])

        for _ in range(self._supposed(now)):
            loads[soonest()] += 1
        owner = soonest()
        candidates = [partition for partition, its in enumerate(self._owners) if its == owner]
        least = min(self.of(partition) for partition in candidates)
        partition = self._random.choice([one for one in candidates if self.of(one) == least])
        self._sent[partition] += 1
        return partition

    def measured(self, found: Measurement) -> None:
        """Take over measured figures."""
        last, self._last = self._last, found
        if last is not None and found.at > last.at:
            self._learn(last, found)
        for partition, end_offset in found.ends.items():
            self._waiting[partition] = objects(end_offset - found.done.get(partition, 0))
        # While somebody has partitions, the ones that nobody has are not to be waited for.
        nobody = {p: f"nobody {p}" for p in range(len(self._owners))} if not found.owners else {}
        self._owners = [found.owners.get(p, nobody.get(p, "nobody")) for p in range(len(self._owners))]
        self._speeds = {owner: speed for owner, speed in self._speeds.items() if owner in found.owners.values()}
        if found.owners and "nobody" in self._owners:
            self._speeds["nobody"] = Speed(busy_s=1e9)
        self._sent_before, self._sent = self._sent, [0] * len(self._sent)

    def _learn(self, last: Measurement, found: Measurement) -> None:
        """How fast each owner is, and how much the other detectors send."""
        passed_s = found.at - last.at
        before: dict[str, int] = {}
        after: dict[str, int] = {}
        done: dict[str, int] = {}
        for partition, owner in found.owners.items():
            if last.owners.get(partition) != owner:
                continue  # it was somebody else's, whose work says nothing of this one
            ends, dones = (last.ends, found.ends), (last.done, found.done)
            waiting = [objects(e.get(partition, 0) - d.get(partition, 0)) for e, d in zip(ends, dones, strict=True)]
            before[owner] = before.get(owner, 0) + waiting[0]
            after[owner] = after.get(owner, 0) + waiting[1]
            moved = found.done.get(partition, 0) - last.done.get(partition, 0)
            done[owner] = done.get(owner, 0) + objects(moved + 1)
        for owner, count in done.items():
            if before[owner] and after[owner]:  # else it was busy for a part of the time, and nobody knows which
                self._speeds.setdefault(owner, Speed()).add(count, passed_s)
        written = sum(end_offset - last.ends.get(partition, end_offset) for partition, end_offset in found.ends.items())
        others = max(0, objects(written) - sum(self._sent)) / passed_s
        self._others_per_s = (self._others_per_s + others) / 2

    def _supposed(self, now: float | None) -> int:
        """How many objects of others to suppose: none to twice as many as they send in the time not seen."""
        if now is None or self._last is None:
            return 0
        unseen = self._others_per_s * (max(0.0, now - self._last.at) + UNDER_WAY_S)
        return round(self._random.uniform(0, 2 * min(unseen, len(self._owners))))

    def _seconds_of_all(self) -> float:
        known = [speed for owner, speed in self._speeds.items() if owner != "nobody"]
        done = sum(speed.done for speed in known)
        return sum(speed.busy_s for speed in known) / done if done else 1.0


class Balancer:
    """Keeps `Outstanding` up to date for the topic `objects` and its group."""

    def __init__(self, kafka: Kafka, group: str) -> None:
        self._kafka = kafka
        self._group = kafka.prefix + group
        self._topic = kafka.prefix + OBJECTS
        self._partitions = range(0)
        self._outstanding: Outstanding | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._admin: AIOKafkaAdminClient | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, and measure from now on. Call `stop` also where this fails.

        Raises UserError where the broker or the topic is missing.
        """
        self._partitions = range((await topics.counts(self._kafka)).get(OBJECTS, 0))
        if not self._partitions:
            raise UserError(f"topic {self._topic} is missing", Exit.TOPICS)
        self._outstanding = Outstanding(len(self._partitions))
        servers = await answering(self._kafka.bootstrap_servers, self._kafka.request_timeout_ms)
        self._consumer = AIOKafkaConsumer(bootstrap_servers=servers)
        await self._consumer.start()
        self._admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await self._admin.start()
        self._task = asyncio.create_task(self._refresh())

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            await end(self._task)
        if self._consumer is not None:
            await close_within(STOP_S, self._consumer.stop())
        if self._admin is not None:
            await close_within(STOP_S, self._admin.close())

    def choose(self) -> int:
        """The partition for the next object."""
        assert self._outstanding is not None, "start() first"
        return self._outstanding.choose(time.monotonic())

    async def _refresh(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._kafka.request_timeout_ms / 1000):
                    await self._measure()
            except (KafkaError, TimeoutError, OSError) as error:
                # The last figures and what we send go on to balance well enough.
                log.debug("outstanding work could not be measured", error=repr(error))
            await asyncio.sleep(REFRESH_S)

    async def _measure(self) -> None:
        assert self._consumer is not None
        assert self._admin is not None
        assert self._outstanding is not None
        sources = [TopicPartition(self._topic, p) for p in self._partitions]
        done = await committed(self._admin, self._consumer, self._group, sources)
        have = await owners(self._admin, self._group)
        ends = await self._consumer.end_offsets(sources)
        self._outstanding.measured(
            Measurement(
                ends={source.partition: offset for source, offset in ends.items()},
                done={source.partition: offset for source, offset in done.items()},
                owners={source.partition: owner for source, owner in have.items() if source.topic == self._topic},
                at=time.monotonic(),
            )
        )
