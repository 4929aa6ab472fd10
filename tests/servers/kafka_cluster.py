"""A real Kafka cluster on one machine: KRaft nodes that are broker and controller, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Self

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError

from stream_worker.local_kafka import LocalKafka
from stream_worker.local_kafka.broker import new_cluster_id
from stream_worker.local_kafka.ports import HOST, free_port

HEAP_MB = 256
START_S = 120.0
ASK_S = 3.0

CONFIG = {
    "group.min.session.timeout.ms": "1000",  # tests kill consumers, and wait for their sessions to end
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",  # ... and for their transactions
    "log.segment.delete.delay.ms": "0",
    "unclean.leader.election.enable": "false",
    # Leaders move when a test moves them, and not because five minutes have passed (seen beside a kill in a fault run).
    "auto.leader.rebalance.enable": "false",
    # The nodes talk to each other by a listener of their own: a proxy that clients are sent to is not in their way.
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,NODES:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "NODES",
    # Nodes that share two busy cores answer late now and then: that alone must depose nobody.
    "controller.quorum.fetch.timeout.ms": "5000",
    "controller.quorum.election.timeout.ms": "3000",
    "broker.session.timeout.ms": "6000",
}


class Node(LocalKafka):
    """One node: the broker's start, kill and stop, and what else can happen to its process."""

    def __init__(self, number: int, folder: Path, port: int, config: Mapping[str, str], cluster_id: str) -> None:
        super().__init__(folder, port, heap_mb=HEAP_MB, config=config, cluster_id=cluster_id)
        self.number = number
        self.port = port
        self.advertised_port: int | None = None
        self._paused = False

    @property
    def answers(self) -> bool:
        """Whether it makes sense to ask this node anything."""
        return self.running and not self._paused

    def kill(self) -> None:
        """SIGKILL, also of a node that is paused."""
        super().kill()
        self._paused = False

    async def terminate(self, timeout_s: float = 60.0) -> None:
        """SIGTERM: it hands its leaderships over and goes. Returns when it is gone."""
        self.resume()  # a paused one would not hear it
        await self.stop(timeout_s)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open, and nothing moves on them."""
        self._send(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: it goes on as if nothing had been."""
        self._send(signal.SIGCONT)
        self._paused = False

    def advertise(self, port: int) -> None:
        """From the next start on, send clients to this port: that of a proxy before the node."""
        self.advertised_port = port
        self._config["advertised.listeners"] = (
            f"PLAINTEXT://{HOST}:{port},{self._config['listeners'].split(',')[1]}"  # the nodes' own stays
        )

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


class KafkaCluster:
    """`size` nodes with their data under `folder`, which die with the thread that started them.

    Everything has `size` replicas and needs all but one of them in sync: with three nodes one may be away.
    """

    def __init__(self, folder: Path, size: int = 3, *, config: Mapping[str, str] | None = None) -> None:
        ports: list[int] = []
        while len(ports) < 3 * size:
            if (port := free_port()) not in ports:
                ports.append(port)
        numbers = range(1, size + 1)
        voters = ",".join(f"{number}@{HOST}:{ports[3 * number - 1]}" for number in numbers)
        cluster_id = new_cluster_id()
        self.nodes: list[Node] = []
        for number in numbers:
            port, inner, controller = ports[3 * (number - 1) : 3 * number]
            own = {
                "node.id": str(number),
                "listeners": f"PLAINTEXT://{HOST}:{port},NODES://{HOST}:{inner},CONTROLLER://{HOST}:{controller}",
                "advertised.listeners": f"PLAINTEXT://{HOST}:{port},NODES://{HOST}:{inner}",
                "controller.quorum.voters": voters,
            }
            merged = {**CONFIG, **_replication(size), **own, **(config or {})}
            self.nodes.append(Node(number, folder / f"node-{number}", port, merged, cluster_id))

    @property
    def bootstrap_servers(self) -> str:
        """All nodes; known before the start."""
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    @property
    def running(self) -> bool:
        """Whether every node's process lives (one that is paused does)."""
        return all(node.running for node in self.nodes)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()

    async def start(self) -> None:
        """Start the nodes that don't run, and return when the cluster is whole and has its internal topics."""
        for node in self.nodes:
            node.resume()
        try:
            await asyncio.gather(*(node.start(START_S) for node in self.nodes if not node.running))
            async with asyncio.timeout(START_S):
                await self._coordinator("any", CoordinationType.GROUP)
                await self._coordinator("any", CoordinationType.TRANSACTION)
            await self.whole()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL all of it, paused nodes too: its data is the test's, and nobody waits for them."""
        for node in self.nodes:
            node.kill()

    def other_than(self, *nodes: Node) -> Node:
        """A node that is none of these."""
        return next(node for node in self.nodes if node not in nodes)

    async def leader_of(self, topic: str, partition: int) -> Node:
        """The node that leads the partition now."""
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(KafkaError, OSError, TimeoutError):
                    async with self._client() as client:
                        found = (await client.fetch_all_metadata())._partitions[topic][partition]
                        if found.leader > 0:
                            return self.nodes[found.leader - 1]
                await asyncio.sleep(0.2)

    async def coordinator_of_group(self, group: str) -> Node:
        """The node that coordinates the group now."""
        return await self._coordinator(group, CoordinationType.GROUP)

    async def coordinator_of_transactions(self, transactional_id: str) -> Node:
        """The node that coordinates the transactions of this id now."""
        return await self._coordinator(transactional_id, CoordinationType.TRANSACTION)

    async def whole(self, within_s: float = START_S) -> None:
        """Return when every node is in and every replica of every partition is in sync. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not await self._is_whole():  # noqa: ASYNC110  # Kafka has no event for it
                await asyncio.sleep(0.2)

    async def _is_whole(self) -> bool:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with self._client() as client:
                seen = await client.fetch_all_metadata()
                partitions = [one for topic in seen._partitions.values() for one in topic.values()]
                return len(seen.brokers()) == len(self.nodes) and all(
                    len(one.isr) == len(one.replicas) and one.leader > 0 for one in partitions
                )
        return False

    async def _coordinator(self, key: str, kind: CoordinationType) -> Node:
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(KafkaError, OSError, TimeoutError):
                    async with self._client() as client:
                        return self.nodes[await client.coordinator_lookup(kind, key) - 1]
                await asyncio.sleep(0.2)  # the first question creates the topic

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[AIOKafkaClient]:
        """A client of the nodes that answer."""
        servers = [f"{HOST}:{node.port}" for node in self.nodes if node.answers]
        client = AIOKafkaClient(bootstrap_servers=servers, request_timeout_ms=int(ASK_S * 1000))
        try:
            await client.bootstrap()
            yield client
        finally:
            await client.close()


def _replication(size: int) -> dict[str, str]:
    replicas, in_sync = str(size), str(max(1, size - 1))
    return {
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
    }
