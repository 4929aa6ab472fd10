"""How much of its topics a group has not done yet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import partial

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from stream_worker.committed import ELSEWHERE, ask

COORDINATOR_S = 0.2


async def committed(
    admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, group: str, sources: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """Where the group goes on in each partition; where it never committed, the partition's beginning."""
    while True:
        try:
            node = await admin.find_coordinator(group)
            known = await ask(partial(admin._send_request, node_id=node), group, sources)
            break
        except ELSEWHERE:
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


async def count(
    consumer: AIOKafkaConsumer,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    most: int,
    within_s: float,
) -> int:
    """How many committed records lie from `starts` up to `ends`; where that is over `most` offsets, the offsets.

    The last offsets of a partition are often markers of transactions, which nobody ever reads. `consumer` is one of
    the caller's own, read_committed and without a group; what it is assigned to is replaced.
    """
    spans = {source: max(0, ends[source] - start) for source, start in starts.items()}
    total = sum(span for span in spans.values() if span > most)
    unread = [source for source, span in spans.items() if 0 < span <= most]
    if not unread:
        return total
    consumer.assign(unread)
    for source in unread:
        consumer.seek(source, starts[source])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while unread:
                for source, records in (await consumer.getmany(timeout_ms=100)).items():
                    total += sum(record.offset < ends[source] for record in records)
                unread = [source for source in unread if await consumer.position(source) < ends[source]]
                consumer.pause(*(source for source in consumer.assignment() if source not in unread))
    for source in unread:  # not read to the end in time: what is left counts as it stands
        total += max(0, ends[source] - await consumer.position(source))
    return total


async def members(admin: AIOKafkaAdminClient, group: str) -> int:
    """How many workers the group has now."""
    described = await admin.describe_consumer_groups([group])
    return sum(len(entry[5]) for response in described for entry in response.groups)
