"""Which partition an object goes to: the one with the least outstanding work.

An object takes seconds, and some take five times as long as others: hashing keys would leave GPUs idle while
others queue. Outstanding work of a partition is what its group has not committed yet, refreshed in the
background, plus what this process has sent since.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stream_worker import telemetry, topics
from stream_worker.bootstrap import answering
from stream_worker.closing import close_within, end
from stream_worker.errors import Exit, UserError
from stream_worker.lag import outstanding
from stream_worker.settings import Kafka
from stream_worker.topics import OBJECTS

REFRESH_S = 0.5
STOP_S = 5.0

log = telemetry.get(__name__)


class Outstanding:
    """The pure policy: how much work each partition has, and which is next."""

    def __init__(self, partitions: int, seed: int | None = None) -> None:
        self._measured = [0] * partitions
        # What was sent shortly before a measurement may not be in it yet: it counts until the next one.
        self._sent = [0] * partitions
        self._sent_before = [0] * partitions
        # Detectors that see the same figures must not all run to the same partition: ties fall at random.
        self._random = random.Random(seed)  # noqa: S311  # no secret depends on it

    def of(self, partition: int) -> int:
        """Objects that wait in a partition or are being worked on, as far as is known."""
        return self._measured[partition] + self._sent[partition] + self._sent_before[partition]

    def choose(self) -> int:
        """The partition with the least outstanding work; one more counts as sent there at once."""
        partitions = range(len(self._measured))
        least = min(self.of(partition) for partition in partitions)
        partition = self._random.choice([p for p in partitions if self.of(p) == least])
        self._sent[partition] += 1
        return partition

    def measured(self, outstanding: Mapping[int, int]) -> None:
        """Take over measured figures: records of each partition that are not committed yet."""
        for partition, count in outstanding.items():
            self._measured[partition] = max(0, count)
        self._sent_before, self._sent = self._sent, [0] * len(self._sent)


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
        return self._outstanding.choose()

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
        waiting = await outstanding(self._admin, self._consumer, self._group, sources)
        # A partition whose work is all done still ends with the marker of its last transaction.
        self._outstanding.measured({source.partition: count - 1 for source, count in waiting.items()})
