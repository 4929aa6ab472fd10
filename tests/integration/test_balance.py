"""Objects go where a real group's members have the least to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from stream_worker import topics
from stream_worker.balance import Balancer
from stream_worker.lag import members, owners
from stream_worker.reconstructor import Reconstructor
from stream_worker.settings import Settings
from tests.staging import running, with_stubs

PARTITIONS = 5


async def test_who_has_which_partition(kafka: str, prefix: str, tmp_path: Path) -> None:
    settings = partitioned(with_stubs(kafka, prefix, tmp_path, "http://127.0.0.1:1"), PARTITIONS)
    await topics.create(settings.kafka)
    group = prefix + "reconstructor"
    async with topics.admin(settings.kafka) as admin, running(Reconstructor(settings, "r-0"), settings):
        alone = await stable(admin, group, 1)
        assert len(set(alone.values())) == await members(admin, group) == 1
        async with running(Reconstructor(settings, "r-1"), settings):
            shared = await stable(admin, group, 2)
            assert sorted(Counter(shared.values()).values()) == [2, 3]
            balancer = Balancer(settings.kafka, "reconstructor")
            try:
                await balancer.start()
                await asyncio.sleep(1)
                chosen = Counter(shared[source(prefix, balancer.choose())] for _ in range(20))
            finally:
                await balancer.stop()
            assert sorted(chosen.values()) == [10, 10], "the one with three partitions gets no more"


def partitioned(settings: Settings, count: int) -> Settings:
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": count})})


def source(prefix: str, partition: int) -> TopicPartition:
    return TopicPartition(prefix + topics.OBJECTS, partition)


async def stable(admin: AIOKafkaAdminClient, group: str, workers: int) -> dict[TopicPartition, str]:
    """Who has which partition, once so many workers have all of them."""
    async with asyncio.timeout(60):
        while True:
            found = await owners(admin, group)
            if len(set(found.values())) == workers and len(found) == PARTITIONS:
                return found
            await asyncio.sleep(0.1)
