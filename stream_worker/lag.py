"""How much of its topics a group has not done yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError

COORDINATOR_S = 0.2


async def committed(
    admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, group: str, sources: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """Where the group goes on in each partition; where it never committed, the partition's beginning."""
    while True:
        try:
            known = await admin.list_consumer_group_offsets(group)
            break
        except (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError):
            # The first group of a cluster waits for the offsets topic to be made; the caller limits the time.
            await asyncio.sleep(COORDINATOR_S)
    begins = await consumer.beginning_offsets([source for source in sources if source not in known])
    return {source: known[source].offset if source in known else begins[source] for source in sources}


async def outstanding(
    admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, group: str, sources: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """Offsets between the group and the end of each partition. Transaction markers count too: an upper bound."""
    done = await committed(admin, consumer, group, sources)
    ends = await consumer.end_offsets(list(sources))
    return {source: max(0, ends[source] - done[source]) for source in sources}
