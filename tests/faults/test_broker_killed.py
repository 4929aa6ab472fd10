"""The broker dies in the middle of the work and comes back: every record still has exactly one outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from stream_worker import topics
from stream_worker.local_kafka import LocalKafka
from stream_worker.records import Received
from stream_worker.settings import Kafka, Settings
from tests.integration.test_stage import PARTITIONS, Echo, read, send, values_of
from tests.staging import running

COUNT = 300


@pytest.mark.timeout(240)
async def test_a_broker_that_is_killed_costs_time_and_nothing_else(tmp_path: Path) -> None:
    processed: Counter[bytes | None] = Counter()
    half_way = asyncio.Event()

    async def work(record: Received) -> None:
        await asyncio.sleep(0.02)
        processed[record.value] += 1
        if len(processed) > COUNT // 3:
            half_way.set()

    async with LocalKafka(tmp_path / "kafka") as broker:
        settings = Settings(
            kafka=Kafka(
                bootstrap_servers=broker.bootstrap_servers,
                partitions=PARTITIONS,
                session_timeout_ms=10_000,
                rebalance_timeout_ms=10_000,
                request_timeout_ms=5_000,
                transaction_timeout_ms=10_000,
            )
        )
        await topics.create(settings.kafka)
        await send(settings, values_of(COUNT))
        async with running(Echo(work), settings):
            await asyncio.wait_for(half_way.wait(), 60)
            assert len(processed) < COUNT, "the kill came too late to prove anything"
            broker.kill()
            await broker.start()
            got = await read(settings, topics.COMPLETED, COUNT, within_s=120)
    assert Counter(record.value for record in got) == Counter(values_of(COUNT))
