"""The work that faults of broker and network hit: records copied by the real runner, and what must come of it."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_worker import topics
from stream_worker.records import Received
from stream_worker.settings import Kafka, Settings
from stream_worker.settings import Stage as StageSettings
from tests.integration.test_stage import Echo

READ_S = 60.0


def brisk(bootstrap_servers: str, prefix: str, *, partitions: int = 3, replicas: int = 1) -> Settings:
    """Settings that give up on the broker soon, so that a short fault is a long one."""
    return Settings(
        kafka=Kafka(
            bootstrap_servers=bootstrap_servers,
            prefix=prefix,
            partitions=partitions,
            replication_factor=replicas,
            session_timeout_ms=6_000,
            rebalance_timeout_ms=10_000,
            request_timeout_ms=3_000,
            transaction_timeout_ms=8_000,
        ),
        stage=StageSettings(drain_s=2, retry_delay_s=0.05),
    )


class Copying(Echo):
    """An Echo whose second half of the work can't be done before `go_on`: a fault set between finds work unfinished."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.done: Counter[bytes | None] = Counter()
        self._half_way = asyncio.Event()
        self._go_on = asyncio.Event()
        self.work = self._copy

    async def half_way(self, within_s: float = 60.0) -> None:
        """Return when work is in hand, some of it done, and the rest waits."""
        await asyncio.wait_for(self._half_way.wait(), within_s)
        assert len(self.done) < self.count

    def go_on(self) -> None:
        """The fault is there: the second half may be done."""
        self._go_on.set()

    async def _copy(self, record: Received) -> None:
        await asyncio.sleep(0.01)
        if len(self.done) >= self.count // 2 and record.value not in self.done:
            self._half_way.set()
            await self._go_on.wait()
        self.done[record.value] += 1


async def committed(settings: Settings, topic: str) -> list[Received]:
    """All that a fresh read_committed reader sees, up to the very end: nothing may be pending before it."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async with asyncio.timeout(READ_S):
            name = settings.kafka.prefix + topic
            await consumer._client.force_metadata_update()
            parts = [TopicPartition(name, number) for number in range(settings.kafka.partitions)]
            consumer.assign(parts)
            ends = await _high_watermarks(settings, parts)
            got: list[Received] = []
            while not all([await consumer.position(part) >= ends[part] for part in parts]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    got += [
                        Received(topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in records
                    ]
    finally:
        await consumer.stop()
    return got


async def progress(settings: Settings) -> tuple[dict[int, int], dict[int, int]]:
    """The group's committed offset of each partition of images, and the end of it."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, group_id=settings.kafka.prefix + Echo.name
    )
    await consumer.start()
    try:
        parts = [
            TopicPartition(settings.kafka.prefix + topics.IMAGES, number) for number in range(settings.kafka.partitions)
        ]
        offsets = {part.partition: await consumer.committed(part) or 0 for part in parts}
    finally:
        await consumer.stop()
    ends = await _high_watermarks(settings, parts)
    return offsets, {part.partition: end for part, end in ends.items()}


async def at_the_end(settings: Settings, within_s: float = 120.0) -> None:
    """Return when the group has committed all that is there."""
    async with asyncio.timeout(within_s):
        while True:
            offsets, ends = await progress(settings)
            if offsets == ends:
                return
            await asyncio.sleep(0.2)


async def require_once_each(settings: Settings, values: list[bytes]) -> None:
    """Every record has exactly one copy, nothing is pending, and the group stands at the end."""
    got = Counter(record.value for record in await committed(settings, topics.COMPLETED))
    wanted = Counter(values)
    assert got == wanted, f"{dict(got - wanted)} too many, {dict(wanted - got)} missing"
    offsets, ends = await progress(settings)
    assert offsets == ends


async def _high_watermarks(settings: Settings, parts: list[TopicPartition]) -> dict[TopicPartition, int]:
    """The ends of the logs, open transactions included."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await consumer.start()
    try:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(parts)
        return ends
    finally:
        await consumer.stop()
