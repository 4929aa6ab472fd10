"""A node that was stopped comes back and believes that it coordinates the group still: its offsets are not taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, NotCoordinatorForGroupError
from aiokafka.structs import OffsetAndMetadata

from stream_worker import committed
from stream_worker.errors import OutageError
from stream_worker.settings import Kafka
from stream_worker.transaction import TransactionalProducer
from tests.servers.kafka_cluster import KafkaCluster, Node

GROUP, SOURCE = "group", TopicPartition("topic", 0)
STALE_S = 8.0
"""Long enough for whoever trusts the node that answers: it does so at once."""


async def commit(servers: str, offset: int) -> None:
    """As the owner before."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id="before", request_timeout_ms=5_000)
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_offsets_to_transaction({SOURCE: OffsetAndMetadata(offset, "")}, GROUP)
    finally:
        await producer.stop()


@asynccontextmanager
async def admin_of(servers: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=3_000)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def asked(admin: AIOKafkaAdminClient, node: int) -> committed.Committed:
    return await committed.ask(lambda request: admin._send_request(request, node), GROUP, [SOURCE])


async def asked_when_registered(node: Node, node_id: int) -> committed.Committed:
    """A node that was away is fenced until it has registered anew: till then its own metadata does not name it."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with admin_of(servers_of([node])) as admin:
                    return await asked(admin, node_id)
            except (KafkaConnectionError, NodeNotReadyError):
                await asyncio.sleep(0.2)


async def another_coordinator(servers: str, former: int) -> int:
    async with asyncio.timeout(60), admin_of(servers) as admin:
        while True:
            try:
                if (found := await admin.find_coordinator(GROUP)) != former:
                    return int(found)
            except KafkaError:
                pass
            await asyncio.sleep(0.2)


def servers_of(nodes: list[Node]) -> str:
    return ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@pytest.mark.timeout(300)
async def test_offsets_are_those_of_the_true_coordinator(tmp_path: Path) -> None:
    async with KafkaCluster(tmp_path) as cluster:
        async with admin_of(cluster.bootstrap_servers) as admin:
            await admin.create_topics([NewTopic(SOURCE.topic, 1, 3)])
            await cluster.whole()
            await commit(cluster.bootstrap_servers, 10)
            former = await admin.find_coordinator(GROUP)
        stopped = cluster.nodes[former - 1]
        others = [node for node in cluster.nodes if node is not stopped]
        producer = TransactionalProducer(
            Kafka(
                bootstrap_servers=cluster.bootstrap_servers,
                request_timeout_ms=5_000,
                transaction_timeout_ms=10_000,
            ),
            "own",
            GROUP,
        )
        await producer.start()
        assert (await producer.committed([SOURCE]))[SOURCE].offset == 10
        assert (await producer.committed([SOURCE]))[SOURCE].offset == 10, "what it sends as a proof is no commit"

        stopped.pause()
        now = await another_coordinator(servers_of(others), former)
        await commit(servers_of(others), 20)
        # It wakes up while those that know better are silent: so it goes on answering for the group.
        for node in others:
            node.pause()
        stopped.resume()
        async with admin_of(servers_of([stopped])) as admin:
            assert (await asked(admin, former))[SOURCE].offset == 10, "the fault is not there"
        asking = asyncio.create_task(producer.committed([SOURCE]))
        try:
            done, _ = await asyncio.wait({asking}, timeout=STALE_S)
            if done:
                with pytest.raises(OutageError):
                    asking.result()
        finally:
            for node in others:
                node.resume()
        async with asyncio.timeout(120):
            found = await again(producer, asking)
        assert found[SOURCE].offset == 20
        await producer.stop()

        assert now != former
        with pytest.raises(NotCoordinatorForGroupError):  # and not: there are none
            await asked_when_registered(stopped, former)


async def again(producer: TransactionalProducer, asking: asyncio.Task[committed.Committed]) -> committed.Committed:
    """As a lane does: as long as there is an outage."""
    while True:
        try:
            return await asking
        except OutageError:
            await producer.stop()
            while True:
                try:
                    await producer.start()
                    break
                except OutageError:
                    await asyncio.sleep(0.2)
            asking = asyncio.create_task(producer.committed([SOURCE]))
