"""How much of its topics a group has not done yet."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from functools import partial

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocol

from stream_worker.committed import ELSEWHERE, ask

COORDINATOR_S = 0.2
POLL_MS = 10
"""Where nothing but markers is left, no record comes, and a poll takes all of this."""


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


def objects(offsets: int) -> int:
    """How many objects so many offsets of topic `objects` are: each is followed by its transaction's marker, nearly
    always. A partition whose work is all done still ends with one."""
    return max(0, offsets) // 2


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
                for source, records in (await consumer.getmany(timeout_ms=POLL_MS)).items():
                    total += sum(record.offset < ends[source] for record in records)
                unread = [source for source in unread if await consumer.position(source) < ends[source]]
                consumer.pause(*(source for source in consumer.assignment() if source not in unread))
    for source in unread:  # not read to the end in time: what is left counts as it stands
        total += max(0, ends[source] - await consumer.position(source))
    return total


async def owners(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, str]:
    """The member that has each partition, by its id; of a group that is being rebalanced, nothing."""
    found: dict[TopicPartition, str] = {}
    for response in await admin.describe_consumer_groups([group]):
        for _, _, state, _, _, listed, *_ in response.groups:
            for member_id, _, _, _, assignment, *_ in listed if state == "Stable" else ():
                for source in ConsumerProtocol.ASSIGNMENT.decode(assignment).partitions():
                    found[source] = member_id
    return found


async def members(admin: AIOKafkaAdminClient, group: str) -> int:
    """How many workers the group has now."""
    described = await admin.describe_consumer_groups([group])
    return sum(len(entry[5]) for response in described for entry in response.groups)
