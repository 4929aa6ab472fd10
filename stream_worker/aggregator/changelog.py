"""The changelog: the join's state as records of the topic `join-changelog`, and back.

Records are keyed by what they are a piece of, as JSON: [image_id, run] for an image, [image_id, run, object_id]
for one of its results, [] for the lane's floor (see `join.py`). The newest record of a key is the truth, a tombstone
takes the piece away; Kafka's compaction keeps no more than that. All of an image's records are on its lane's partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    InvalidMessageError,
    KafkaError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedCodecError,
)

from stream_worker import contract
from stream_worker.aggregator.join import Change
from stream_worker.bootstrap import answering
from stream_worker.closing import close_within
from stream_worker.errors import FatalError, OutageError, RecordFault
from stream_worker.events import JoinFloorEvent, JoinStateEvent

Piece = JoinStateEvent | JoinFloorEvent

FLOOR_KEY = b"[]"
BARRIER_KEY = b'["barrier"]'
"""Of the tombstone that a restore writes and then reads up to: no piece, and gone with a later compaction."""

STOP_S = 5.0
"""Closing the consumer, at most: it holds nothing that could be lost."""

OPEN: Mapping[str, Any] = {}
"""A broker that asks nobody who they are; else `security.renewed`."""

_POLL_MS = 50
_DECODE_BATCH = 100
"""Records decoded before other work on the event loop (heartbeats) gets its turn."""


class Read(Protocol):
    """What matters of a record that was read."""

    offset: int
    key: bytes | None
    value: bytes | None


Newest = dict[bytes | None, tuple[int, bytes]]
"""Offset and value of the newest record of each key that is no tombstone."""


def key_of(image_id: str, run: str, object_id: str | None = None) -> bytes:
    """The record key of an image, or of one of its results."""
    return orjson.dumps([image_id, run] if object_id is None else [image_id, run, object_id])


def record(change: Change | JoinFloorEvent) -> tuple[bytes, bytes | None]:
    """Key and value of the record that writes a change, or a new floor, down."""
    if isinstance(change, JoinFloorEvent):
        return FLOOR_KEY, contract.encode(change)
    key = key_of(change.image_id, change.run, change.object_id)
    return key, contract.encode(change.event) if change.event else None


def keep_newest(newest: Newest, records: Iterable[Read]) -> None:
    """Read on: the records take the place of those of the same keys."""
    for record in records:
        if record.value is None:
            newest.pop(record.key, None)
        else:
            newest[record.key] = record.offset, record.value


async def mark(
    bootstrap_servers: str,
    topic: str,
    lane: int,
    *,
    patience_s: float = 30.0,
    request_timeout_ms: int = 20_000,
    security: Mapping[str, Any] = OPEN,
) -> int:
    """Write a barrier to partition `lane` of `topic` (its full name); its offset.

    What a node says is the end can't be trusted: one that was away (stopped, or cut off) believes for a while that it
    leads still, and ends before what was committed meanwhile. A barrier must be had by all replicas in sync: only the
    true leader can take it, and behind everything committed.

    Two barriers at neighbouring offsets say that nobody has written in between, and so that nobody has restored the
    lane: whoever does writes a barrier first.

    Raises OutageError when the broker or the partition is away, or does not take it within `patience_s`.
    """
    servers = await answering(bootstrap_servers, request_timeout_ms, **security)
    producer = AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", request_timeout_ms=request_timeout_ms, **security
    )
    try:
        async with asyncio.timeout(patience_s):
            await producer.start()
            sent = await producer.send_and_wait(topic, None, BARRIER_KEY, partition=lane)
        return int(sent.offset)
    except TimeoutError:
        raise OutageError(f"{topic}-{lane}: no barrier was taken for {patience_s:g} s") from None
    except (KafkaError, OSError) as error:
        raise OutageError(f"{topic}-{lane}: no barrier was taken: {error!r}") from error
    finally:
        await close_within(STOP_S, producer.stop())


async def restore(
    bootstrap_servers: str,
    topic: str,
    lane: int,
    barrier: int,
    take: Callable[[Piece], None],
    *,
    patience_s: float = 30.0,
    request_timeout_ms: int = 20_000,
    security: Mapping[str, Any] = OPEN,
) -> None:
    """Call `take` with every piece that partition `lane` of `topic` (its full name) holds now, committed ones only.

    To be called when whoever wrote there before is fenced, with the offset of a barrier that was written (`mark`) after
    that. Then nothing is added while this reads up to it.

    The pieces are opened one at a time: as objects, all of them together would take five times what the join takes
    that they make.

    Raises OutageError when the broker or the partition is away, or nothing has moved for `patience_s`; FatalError
    for a record that can't be read: to go on without it would lose an image in silence. (Who knows better can take
    the record away, with a tombstone of its key.)
    """
    partition = TopicPartition(topic, lane)
    bootstrap_servers = await answering(bootstrap_servers, request_timeout_ms, **security)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        **security,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        request_timeout_ms=request_timeout_ms,
        fetch_max_wait_ms=_POLL_MS,
        max_partition_fetch_bytes=2 * 2**20,
    )
    try:
        newest = await _newest_by_key(consumer, partition, barrier, patience_s)
    except (CorruptRecordException, InvalidMessageError, RecordTooLargeError, UnsupportedCodecError) as error:
        raise FatalError(f"{topic}-{lane}: a record batch can't be read: {error!r}") from error
    except OffsetOutOfRangeError as error:
        raise FatalError(f"{topic}-{lane}: the log was cut while it was read: {error!r}") from error
    except TimeoutError:
        raise OutageError(f"{topic}-{lane}: restoring: nothing has moved for {patience_s:g} s") from None
    except (KafkaError, OSError) as error:
        raise OutageError(f"{topic}-{lane}: can't be restored now: {error!r}") from error
    finally:
        # In a task of its own: aiokafka's `stop` suppresses CancelledError, also one that is meant for its caller,
        # and a lane that was told to close would go on to work.
        stopping = asyncio.create_task(_stop(consumer))
        try:
            await asyncio.wait({stopping})
        except asyncio.CancelledError:
            await asyncio.wait({stopping})
            raise
    for count, key in enumerate(list(newest)):
        offset, value = newest.pop(key)
        take(decoded(key, value, f"{topic}-{lane} offset {offset}"))
        if count % _DECODE_BATCH == 0:
            await asyncio.sleep(0)


async def _stop(consumer: AIOKafkaConsumer) -> None:
    with suppress(TimeoutError, KafkaError):
        async with asyncio.timeout(STOP_S):
            await consumer.stop()


async def _newest_by_key(
    consumer: AIOKafkaConsumer, partition: TopicPartition, barrier: int, patience_s: float
) -> Newest:
    """The newest record of every key that is no tombstone, of all that lie before the barrier.

    Read by position: what lies just before the barrier may be transaction markers or aborted records, which no poll
    returns.
    """
    async with asyncio.timeout(patience_s):
        await consumer.start()
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        position = await consumer.position(partition)

    newest: Newest = {}
    loop = asyncio.get_running_loop()
    moved_at = loop.time()
    while position <= barrier:
        keep_newest(newest, (await consumer.getmany(partition, timeout_ms=_POLL_MS)).get(partition, []))
        async with asyncio.timeout(patience_s):
            before, position = position, await consumer.position(partition)
        if position != before:
            moved_at = loop.time()
        elif loop.time() - moved_at > patience_s:
            raise TimeoutError
    return newest


def decoded(key: bytes | None, value: bytes, place: str) -> Piece:
    """The piece in a record. Raises FatalError where it is none, or not the one that its key names."""
    try:
        if key == FLOOR_KEY:
            return contract.decode(JoinFloorEvent, value)
        piece = contract.decode(JoinStateEvent, value)
    except RecordFault as fault:
        raise FatalError(f"corrupt join state at {place}: {fault.message}") from fault
    result = piece.result
    if (piece.image is None) == (result is None):
        raise FatalError(f"corrupt join state at {place}: neither an image nor one result")
    if result is not None and (result.image_id, result.run) != (piece.image_id, piece.run):
        raise FatalError(f"corrupt join state at {place}: a result of another image")
    if key != key_of(piece.image_id, piece.run, result.object_id if result is not None else None):
        raise FatalError(f"corrupt join state at {place}: the key {key!r} names something else")
    return piece
