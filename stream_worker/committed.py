"""What a group has committed, as one node says.

aiokafka's own calls (0.14: the consumer's `committed`, the admin client's `list_consumer_group_offsets`) read the
errors of single partitions, but overlook the one of the whole answer (KIP-88). A node that is not the group's
coordinator any more, or is loading still, then seems to say that nothing was ever committed: a lane was worked on again
from its beginning. Other clients have had the fault too (confluentinc/librdkafka#5586, Parsely/pykafka#958).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
    for_code,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

ELSEWHERE = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
"""Another node is to be asked, or the same one again in a moment."""

Committed = dict[TopicPartition, OffsetAndMetadata]


async def ask(
    send: Callable[[OffsetFetchRequest], Awaitable[Any]], group: str, sources: Collection[TopicPartition]
) -> Committed:
    """What `group` has committed of `sources`; those where it never has are left out.

    `send` sends the request to a node. Raises KafkaError, one of `ELSEWHERE` where the node is not the one to ask.
    """
    topics: dict[str, list[int]] = {}
    for source in sources:
        topics.setdefault(source.topic, []).append(source.partition)
    answer = await send(OffsetFetchRequest(group, list(topics.items())))
    return read(answer, sources)


def read(answer: Any, sources: Collection[TopicPartition]) -> Committed:
    """The offsets in an OffsetFetchResponse. Raises KafkaError where it is an error, or says nothing of a partition."""
    code = getattr(answer, "error_code", 0)
    found: Committed = {}
    said = set()
    for topic, partitions in answer.topics:
        for partition, offset, metadata, error in partitions:
            code = code or error
            said.add(TopicPartition(topic, partition))
            if offset >= 0:
                found[TopicPartition(topic, partition)] = OffsetAndMetadata(offset, metadata)
    if code:
        raise for_code(code)("committed offsets")
    if missing := set(sources) - said:
        raise KafkaError(f"the node says nothing of {sorted(missing)}")
    return found
