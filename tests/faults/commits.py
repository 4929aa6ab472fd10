"""When every offset was committed: as the groups' coordinators wrote it down, to the millisecond."""

from __future__ import annotations

import asyncio
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_worker.settings import Kafka
from tests.faults.offsets import Source

TOPIC = "__consumer_offsets"
OF_AN_OFFSET = (0, 1)
"""Versions of a key that names a partition of a group; others are of the groups' members."""

Commits = Mapping[tuple[str, Source], Sequence[tuple[float, int]]]
"""Per group and partition: seconds and offset of every commit, in order."""


def moved_at(commits: Commits, group: str, source: Source, position: int) -> float | None:
    """When more than this was committed for the first time; None where it never was."""
    return next((at for at, offset in commits.get((group, source), ()) if offset > position), None)


async def committed(kafka: Kafka, began: float, within_s: float) -> Commits:
    """Every commit of the groups to our topics, of transactions that were committed.

    Seconds count from `began` (of the epoch), by the clock of the node that coordinated the group: when it took the
    offset. The transaction that carries it is over a moment later. The log must not have been compacted yet: a segment
    that is written to never is, and Kafka's own has 100 MiB.
    """
    found: defaultdict[tuple[str, Source], list[tuple[float, int]]] = defaultdict(list)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    async with asyncio.timeout(within_s), consumer:
        everything = await consumer._client.fetch_all_metadata()  # a consumer itself has no word of internal topics
        logs = [TopicPartition(TOPIC, number) for number in everything.partitions_for_topic(TOPIC) or ()]
        consumer.assign(logs)
        ends = await consumer.end_offsets(logs)
        while any([await consumer.position(log) < ends[log] for log in logs]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    named = name(record.key)
                    if named is None or record.value is None:
                        continue
                    group, topic, number = named
                    ours = group.removeprefix(kafka.prefix), (topic.removeprefix(kafka.prefix), number)
                    found[ours].append((round(record.timestamp / 1000 - began, 3), offset(record.value)))
    return dict(found)


def name(key: bytes | None) -> tuple[str, str, int] | None:
    """Group, topic and partition that a record is of (Kafka's OffsetCommitKey.json); None for another record."""
    if key is None or struct.unpack_from(">h", key)[0] not in OF_AN_OFFSET:
        return None
    at, texts = 2, []
    for _ in range(2):
        (size,) = struct.unpack_from(">h", key, at)
        texts.append(key[at + 2 : at + 2 + size].decode())
        at += 2 + size
    return texts[0], texts[1], struct.unpack_from(">i", key, at)[0]


def offset(value: bytes) -> int:
    """The offset of a record (OffsetCommitValue.json): in every version it follows the version."""
    return int(struct.unpack_from(">hq", value)[1])
