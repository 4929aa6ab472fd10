"""A node that was stopped comes back and believes that it leads still: its end of a log is not taken for the end."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream_worker import topics
from stream_worker.aggregator import changelog
from stream_worker.aggregator.join import Change
from stream_worker.errors import OutageError
from stream_worker.events import JoinStateEvent
from tests.servers.kafka_cluster import KafkaCluster
from tests.unit.aggregator.examples import result

TOPIC, LANE = topics.CHANGELOG, 0
STALE_S = 25.0
"""Long enough for a restore that trusts the stale leader, though it may ask the silent nodes first."""


async def write(servers: str, index: int) -> None:
    """A committed piece of the state, acknowledged by all replicas in sync."""
    event = result(index)
    piece = JoinStateEvent(image_id=event.image_id, run=event.run, result=event)
    key, value = changelog.record(Change(event.image_id, event.run, event.object_id, piece))
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", request_timeout_ms=10_000)
    await producer.start()
    try:
        await producer.send_and_wait(TOPIC, value, key, partition=LANE)
    finally:
        await producer.stop()


async def restored(servers: str, pieces: list[changelog.Piece]) -> None:
    """As a lane does: again, as long as there is an outage. A question to a node that stands still must end soon."""
    while True:
        pieces.clear()
        with contextlib.suppress(OutageError):
            limits = {"patience_s": 15, "request_timeout_ms": 3_000}
            barrier = await changelog.mark(servers, TOPIC, LANE, **limits)
            await changelog.restore(servers, TOPIC, LANE, barrier, pieces.append, **limits)
            return


@pytest.mark.timeout(240)
async def test_a_state_is_not_restored_from_a_leader_that_was_stopped_and_does_not_know_it(tmp_path: Path) -> None:
    async with KafkaCluster(tmp_path) as cluster:
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap_servers)
        await admin.start()
        await admin.create_topics([NewTopic(TOPIC, 1, 3, topic_configs={"cleanup.policy": "compact"})])
        await admin.close()
        await cluster.whole()
        await write(cluster.bootstrap_servers, 0)

        former = await cluster.leader_of(TOPIC, LANE)
        others = [node for node in cluster.nodes if node is not former]
        servers = ",".join(f"127.0.0.1:{node.port}" for node in others)
        former.pause()
        async with asyncio.timeout(60):
            while await cluster.leader_of(TOPIC, LANE) is former:  # noqa: ASYNC110  # Kafka has no event for it
                await asyncio.sleep(0.2)
        await write(servers, 1)

        # The former leader wakes up while the two that know better are silent: it can't learn what it has missed.
        for node in others:
            node.pause()
        former.resume()
        pieces: list[changelog.Piece] = []
        restoring = asyncio.create_task(restored(f"127.0.0.1:{former.port}", pieces))
        try:
            done, _ = await asyncio.wait({restoring}, timeout=STALE_S)
            assert not done, f"restored {len(pieces)} of 2 pieces from a leader that is none: {restoring}"
        finally:
            for node in others:
                node.resume()
        await asyncio.wait_for(restoring, 120)
    found = [piece.result for piece in pieces if isinstance(piece, JoinStateEvent)]
    assert sorted(one.index for one in found if one is not None) == [0, 1]
