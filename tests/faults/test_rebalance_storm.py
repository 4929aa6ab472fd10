"""A member joins and leaves every three seconds while work goes on: every record once.

How much work goes on is measured in `tests/benchmarks/rebalance_storm.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from stream_worker import topics
from stream_worker.records import Received
from stream_worker.settings import Kafka, Settings
from tests.faults.storm import generation, storm
from tests.integration.test_stage import PARTITIONS, Echo, read, send, values_of
from tests.staging import running

MEMBERS = 2
OBJECT_S = 0.02
COUNT = 1200
STORMS = 2
"""Joins of the extra member before the work may end; each is two rebalances."""


class OneModel(Echo):
    """A member that does one record at a time, with the next ones at hand, as a reconstructor does."""

    window = 3

    def __init__(self, done: Counter[bytes | None]) -> None:
        super().__init__(self._model)
        self._turn = asyncio.Lock()
        self._done = done

    async def _model(self, record: Received) -> None:
        async with self._turn:
            await asyncio.sleep(OBJECT_S)
        self._done[record.value] += 1


@pytest.mark.timeout(240)
async def test_a_member_that_joins_and_leaves_every_three_seconds_costs_no_record(kafka: str, prefix: str) -> None:
    settings = Settings(
        kafka=Kafka(
            bootstrap_servers=kafka,
            prefix=prefix,
            partitions=PARTITIONS,
            session_timeout_ms=10_000,
            rebalance_timeout_ms=10_000,
        )
    )
    await topics.create(settings.kafka)
    await send(settings, values_of(COUNT))
    done: Counter[bytes | None] = Counter()
    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(running(OneModel(done), settings)) for _ in range(MEMBERS)]
        before = generation(stages[0])
        storming = asyncio.create_task(storm(lambda: OneModel(done), settings, over))
        try:
            # Whatever was done in the storm counts; where that is all there was, there is more.
            got, sent = 0, COUNT
            while generation(stages[0]) < before + 2 * STORMS:
                await asyncio.sleep(0.5)
                if sum(done.values()) > sent - COUNT // 2:
                    await send(settings, [f"more-{number}".encode() for number in range(sent, sent + COUNT)])
                    sent += COUNT
            got = len(done)
            assert got < sent, "the storm came too late to prove anything"
        finally:
            over.set()
            joins = await storming
        rebalances = generation(stages[0]) - before
        records = await read(settings, topics.COMPLETED, sent, within_s=120)
    values = [*values_of(COUNT), *(f"more-{number}".encode() for number in range(COUNT, sent))]
    assert Counter(record.value for record in records) == Counter(values)
    assert joins >= STORMS
    assert rebalances >= 2 * STORMS
    print(f"{joins} joins, {rebalances} rebalances, {sum(done.values()) - len(done)} of {sent} records done twice")
