"""How far each group is behind, and how fast it goes: `stream-worker status`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_worker import topics
from stream_worker.bootstrap import entry
from stream_worker.lag import committed, count, members
from stream_worker.settings import Settings

MOST_COUNTED = 1000
COUNT_S = 3.0
GROUPS = {
    "detector": (topics.IMAGES,),
    "reconstructor": (topics.OBJECTS,),
    "aggregator": (topics.DETECTIONS, topics.RECONSTRUCTIONS),
}


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """One group's place in one of its topics."""

    group: str
    topic: str
    members: int
    """Workers in the group now."""
    lag: int
    """Records that the group has not committed; beyond a thousand in a partition, offsets (markers included)."""
    per_second: float
    """Records committed a second, over the time of the measurement."""


async def measure(settings: Settings, over_s: float = 2.0) -> list[GroupStatus]:
    """Lag and throughput of every group, measured over `over_s` seconds."""
    kafka = settings.kafka
    await topics.require(kafka)
    async with (
        topics.admin(kafka) as admin,
        AIOKafkaConsumer(**await entry(kafka), isolation_level="read_committed") as consumer,
    ):
        there = await topics.present(admin, kafka)
        pairs = [(group, topic) for group, inputs in GROUPS.items() for topic in inputs]

        async def positions() -> dict[tuple[str, str], dict[TopicPartition, int]]:
            async with asyncio.timeout(kafka.request_timeout_ms / 1000):
                return {
                    (group, topic): await committed(
                        admin,
                        consumer,
                        kafka.prefix + group,
                        [TopicPartition(kafka.prefix + topic, number) for number in range(there[topic])],
                    )
                    for group, topic in pairs
                }

        before, started = await positions(), time.monotonic()
        await asyncio.sleep(over_s)
        after, took = await positions(), time.monotonic() - started
        rows = []
        for pair in pairs:
            ends = await consumer.end_offsets(list(after[pair]))
            waiting = await count(consumer, after[pair], ends, MOST_COUNTED, COUNT_S)
            moved = await count(consumer, before[pair], after[pair], MOST_COUNTED, COUNT_S)
            rows.append(
                GroupStatus(
                    group=pair[0],
                    topic=pair[1],
                    members=await members(admin, kafka.prefix + pair[0]),
                    lag=waiting,
                    per_second=moved / took,
                )
            )
        return rows
