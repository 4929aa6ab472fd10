"""Brokers for the faults of broker and network: one behind a proxy for all modules, a cluster for those that ask."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from stream_worker import topics
from stream_worker.settings import Settings
from tests.conftest import run
from tests.faults.copying import brisk
from tests.servers.kafka_cluster import KafkaCluster
from tests.servers.proxy import Proxy, before

NEVER_ABORT = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "3600000"}
"""The broker does not end a transaction that outlasts its time: what is left behind, the next owner must end."""


@pytest.fixture(scope="session")
def proxied_node() -> Iterator[KafkaCluster]:
    """One node that sends its clients to a proxy."""
    with tempfile.TemporaryDirectory(prefix="stream-worker-proxied-", ignore_cleanup_errors=True) as folder:
        node = KafkaCluster(Path(folder), size=1, config=NEVER_ABORT)

        async def start() -> None:
            async with before(node):
                await node.start()

        try:
            run(start())
            yield node
        finally:
            node.kill()


@pytest.fixture
async def proxy(proxied_node: KafkaCluster) -> AsyncIterator[Proxy]:
    """The proxy before that node, without faults."""
    async with before(proxied_node) as proxies:
        yield proxies[0]


@pytest.fixture
async def proxied(proxied_node: KafkaCluster, proxy: Proxy) -> Settings:
    """Settings and topics of one test, by way of the proxy."""
    settings = brisk(f"127.0.0.1:{proxy.port}", f"t{uuid.uuid4().hex[:10]}-")
    await topics.create(settings.kafka)
    return settings


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    """Three nodes, whole at the module's start."""
    with tempfile.TemporaryDirectory(prefix="stream-worker-cluster-", ignore_cleanup_errors=True) as folder:
        made = KafkaCluster(Path(folder))
        try:
            run(made.start())
            yield made
        finally:
            made.kill()
