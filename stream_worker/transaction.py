"""One lane's transactional producer: outputs and input offsets in one transaction, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    ProducerFenced,
    RequestTimedOutError,
)
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import OffsetAndMetadata

from stream_worker import telemetry
from stream_worker.bootstrap import entry_again
from stream_worker.closing import close_within
from stream_worker.committed import ELSEWHERE, Committed, ask
from stream_worker.errors import FatalError, FencedError, OutageError
from stream_worker.records import Output
from stream_worker.settings import Kafka
from stream_worker.topics import HEADROOM_BYTES

STOP_S = 5.0
COORDINATOR_S = 0.1
BATCH_BYTES = 256 * 1024  # aiokafka's 16 KiB makes a request of nearly every event

AWAY = (
    KafkaConnectionError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
)
"""Nobody leads a partition, or too few replicas of it are there: to be waited out, however long it lasts."""

log = telemetry.get(__name__)

ASK_ANOTHER = (*ELSEWHERE, KafkaConnectionError, NodeNotReadyError, RequestTimedOutError)
"""Of a node that was asked for committed offsets."""


class ProducerLostError(Exception):
    """The producer can't be trusted any more: throw it away, make a new one, and do the work again."""


def require_compiled_client() -> None:
    """aiokafka without its C extension is twelve times slower and says nothing of it. Raises FatalError."""
    if "_crecords" not in DefaultRecordBatchBuilder.__module__:
        raise FatalError("aiokafka was installed without its C extension: install a binary wheel of it")


class TransactionalProducer:
    """The producer of one lane; its transactional id is the lane's alone.

    aiokafka has no KIP-447 fencing, so ownership of a partition is ownership of this id: `start` makes the
    broker finish or abort whatever a former owner left, and fences it. Every error of a produce or a
    transaction call means ProducerLostError: aiokafka's state is not to be trusted after one.

    aiokafka asks again by itself where a request got no answer (its time was over, its connection broke), and
    the first request may still be under way: a late EndTxn would end the next transaction of the same epoch half
    done (KAFKA-17754), late offsets would take the group back. So a transaction that came through with such a
    request is the producer's last: the next one has a new epoch, and the broker refuses what is late.
    """

    def __init__(self, kafka: Kafka, transactional_id: str, group_id: str) -> None:
        self._kafka = kafka
        self._id = transactional_id
        self._group = group_id
        self._producer: AIOKafkaProducer | None = None
        self._unanswered = 0

    async def start(self) -> None:
        """Become the owner. Raises OutageError where the broker does not answer in time."""
        producer = AIOKafkaProducer(
            **await entry_again(self._kafka),
            transactional_id=self._id,
            transaction_timeout_ms=self._kafka.transaction_timeout_ms,
            request_timeout_ms=self._kafka.request_timeout_ms,
            max_batch_size=BATCH_BYTES,
            max_request_size=self._kafka.max_event_bytes + HEADROOM_BYTES,
        )
        self._watch(producer)
        try:
            async with asyncio.timeout(2 * self._kafka.request_timeout_ms / 1000):
                await producer.start()
        except (KafkaError, TimeoutError, OSError, AssertionError) as error:
            # AssertionError: the answer to the bootstrap named no broker yet ("Did we not perform bootstrap?").
            await _stop(producer)
            raise OutageError(f"no producer for {self._id}: {type(error).__name__}: {error}") from error
        except asyncio.CancelledError:
            await _stop(producer)
            raise
        self._producer = producer

    async def stop(self) -> None:
        """Let the producer go, whatever state it is in. An open transaction is aborted by the next owner."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)

    async def write(self, outputs: Sequence[Output], offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """One transaction: the outputs, and the offsets to go on from. Returns when it is committed.

        Raises ProducerLostError where it may or may not have been, or has not been within the transaction's time
        limit, OutageError where a partition has no leader or too few replicas, FencedError where another process owns
        the lane, and FatalError where a topic takes no event this large. After each, the producer is of no use.
        """
        with self._trusted() as producer:
            async with asyncio.timeout(self._kafka.transaction_timeout_ms / 1000):
                await producer.begin_transaction()
                sent = [await self._send(producer, output) for output in outputs]
                # A produce that fails unawaited would be lost while its transaction and the offsets commit.
                await asyncio.gather(*sent)
                if offsets:
                    await producer.send_offsets_to_transaction(dict(offsets), self._group)
                await producer.commit_transaction()
        await self._renewed()

    async def _send(self, producer: AIOKafkaProducer, output: Output) -> asyncio.Future[Any]:
        """Hand an output to the client; the future tells when the broker has it."""
        topic, headers = self._kafka.prefix + output.topic, list(output.headers)
        sent: asyncio.Future[Any]
        if output.key is not None or output.value is not None:
            sent = await producer.send(topic, output.value, output.key, output.partition, headers=headers)
            return sent
        # Kafka takes a record without both, aiokafka's `send` does not: but a dead letter is the record as it came.
        await producer.client._wait_on_metadata(topic)
        partition = output.partition
        if partition is None:
            partition = producer._partition(topic, None, None, None, None, None)
        where, timeout_s = TopicPartition(topic, partition), self._kafka.request_timeout_ms / 1000
        sent = await producer._message_accumulator.add_message(where, None, None, timeout_s, headers=headers)
        return sent

    async def committed(self, sources: Sequence[TopicPartition]) -> Committed:
        """Where the group goes on: its committed offsets of those of `sources` where it has any.

        The node that says so must know all that was committed before `start`. One that was stopped, or cut off, is the
        coordinator still in its own eyes, and says what it knew then (seen: offsets of a minute ago, for two seconds).
        So offsets are sent into a transaction, which is aborted: only the true coordinator can take them, for it needs
        the replicas. As nobody but us can commit for the lane since `start`, what that node knows stays the truth.

        Raises OutageError where no node does that in time, and else as `write`.
        """
        with self._trusted() as producer:
            try:
                async with asyncio.timeout(self._kafka.transaction_timeout_ms / 1000):
                    while (found := await self._known_to_the_true_coordinator(producer, sources)) is None:
                        producer._sender._coordinator_dead(CoordinationType.GROUP)
                        await asyncio.sleep(COORDINATOR_S)
            except TimeoutError:
                raise OutageError(f"nobody is the coordinator of {self._group} for {self._id}") from None
        await self._renewed()
        return found

    async def _known_to_the_true_coordinator(
        self, producer: AIOKafkaProducer, sources: Sequence[TopicPartition]
    ) -> Committed | None:
        """None where the node that was asked is not the one, or is away."""

        async def asked(node: int) -> Committed:
            send = partial(producer.client.send, node, group=ConnectionGroup.COORDINATION)
            return await ask(send, self._group, sources)

        try:
            believed = await asked(await producer._sender._find_coordinator(CoordinationType.GROUP, self._group))
        except ASK_ANOTHER:
            return None
        offsets = {source: believed.get(source, OffsetAndMetadata(0, "")) for source in sources}
        await producer.begin_transaction()
        await producer.send_offsets_to_transaction(offsets, self._group)
        found = None
        # Only this one has taken the offsets. Where it has been given up since, the next one has proven nothing.
        if (proven := producer._sender._coordinators.get(CoordinationType.GROUP)) is not None:
            with suppress(*ASK_ANOTHER):
                found = await asked(proven)
        await producer.abort_transaction()
        return found

    @contextmanager
    def _trusted(self) -> Iterator[AIOKafkaProducer]:
        """The producer, and what its errors mean."""
        producer = self._producer
        if producer is None:
            raise ProducerLostError("no producer")
        try:
            yield producer
        except (OutageError, FencedError, FatalError, ProducerLostError):
            raise
        except TimeoutError:
            raise ProducerLostError("the transaction did not end in time") from None
        except AWAY as error:
            raise OutageError(f"no transaction for {self._id}: {type(error).__name__}: {error}") from error
        except ProducerFenced:
            raise FencedError(f"{self._id} is owned by another process now") from None
        except MessageSizeTooLargeError as error:
            # Doing the work again would give the same: somebody must mend the topic.
            raise FatalError(f"a topic takes no event this large, raise its max.message.bytes: {error}") from None
        except Exception as error:  # aiokafka raises AssertionError and KeyError here too
            raise ProducerLostError(f"{type(error).__name__}: {error}") from error

    async def _renewed(self) -> None:
        """Nothing, or a new producer where a request of this one may still be under way."""
        if self._doubtful():
            log.warning("new producer after unanswered requests", transactional_id=self._id, requests=self._unanswered)
            await self.stop()
            await self.start()

    def _doubtful(self) -> bool:
        """Whether a request of this producer may still be on its way to the broker."""
        return self._unanswered > 0

    def _watch(self, producer: AIOKafkaProducer) -> None:
        """Count the requests that get no answer: aiokafka only logs them."""
        self._unanswered = 0
        send = producer.client.send

        async def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return await send(*args, **kwargs)
            except BaseException:
                self._unanswered += 1
                raise

        producer.client.send = watched


async def _stop(producer: AIOKafkaProducer) -> None:
    """`stop()` flushes, and with the broker away or after an error that can take for ever (aiokafka #1101)."""
    try:
        if await close_within(STOP_S, producer.stop()):
            return
        if producer._sender.sender_task is not None:
            producer._sender.sender_task.cancel()
        await close_within(STOP_S, producer.client.close())
    finally:
        # A failure is told to this future too, which only a commit awaits: unread, it would be logged at random.
        ending = producer._txn_manager._transaction_waiter
        if ending is not None and ending.done() and not ending.cancelled():
            ending.exception()
