"""Where every group stands, sampled all the time: what it has committed, and the end of its topics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stream_worker.closing import close_within, end
from stream_worker.committed import ask
from stream_worker.settings import Kafka
from stream_worker.status import GROUPS

EVERY_S = 1.0
ANSWER_S = 6.0
"""A sample that takes longer is given up: the node that was asked is away."""
STOP_S = 3.0

Source = tuple[str, int]
"""Topic (without prefix) and partition."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at all groups. It began and ended at these seconds of the run; what it saw lies in between."""

    began: float
    ended: float
    committed: Mapping[str, Mapping[Source, int]]
    """Per group: the next offset of each partition; 0 where it never committed."""
    ends: Mapping[Source, int]
    """One past the last offset that read_committed readers can reach."""


class Offsets:
    """Takes a sample a second, by two clients for all groups. During a broker's fault samples may fail to come."""

    def __init__(self, kafka: Kafka, started: float) -> None:
        self.samples: list[Sample] = []
        self._kafka = kafka
        self._started = started
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Offsets:
        self._task = asyncio.create_task(self._watch(), name="offsets")
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._task)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(KafkaError, TimeoutError, OSError):
                await self._sample_all()
            await asyncio.sleep(EVERY_S / 2)

    async def _sample_all(self) -> None:
        """Sample until an error; then the clients are made anew."""
        servers = self._kafka.bootstrap_servers
        limit_ms = round(1000 * ANSWER_S / 2)
        admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=limit_ms)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=servers, isolation_level="read_committed", request_timeout_ms=limit_ms
        )
        try:
            async with asyncio.timeout(2 * ANSWER_S):
                await admin.start()
                await consumer.start()
            parts = {topic: self._kafka.partitions for topics in GROUPS.values() for topic in topics}
            sources = {
                (topic, number): TopicPartition(self._kafka.prefix + topic, number)
                for topic, count in parts.items()
                for number in range(count)
            }
            while True:
                began = time.monotonic()
                async with asyncio.timeout(ANSWER_S):
                    self.samples.append(await self._sample(admin, consumer, sources, began))
                await asyncio.sleep(max(0.0, began + EVERY_S - time.monotonic()))
        finally:
            await close_within(STOP_S, consumer.stop())
            await close_within(STOP_S, admin.close())

    async def _sample(
        self,
        admin: AIOKafkaAdminClient,
        consumer: AIOKafkaConsumer,
        sources: Mapping[Source, TopicPartition],
        began: float,
    ) -> Sample:
        committed: dict[str, dict[Source, int]] = {}
        for group, topics in GROUPS.items():
            name = self._kafka.prefix + group
            send = partial(admin._send_request, node_id=await admin.find_coordinator(name))
            due = {source: where for source, where in sources.items() if source[0] in topics}
            known = await ask(send, name, list(due.values()))
            committed[group] = {source: known[where].offset if where in known else 0 for source, where in due.items()}
        ends = await consumer.end_offsets(list(sources.values()))
        return Sample(
            began=round(began - self._started, 3),
            ended=round(time.monotonic() - self._started, 3),
            committed=committed,
            ends={source: ends[where] for source, where in sources.items()},
        )


async def visible(kafka: Kafka, within_s: float) -> dict[Source, list[int]]:
    """The offset of every record of the groups' topics that a read_committed reader sees, in order.

    Offsets have gaps (markers and aborted records): only with these can a distance between offsets be counted.
    """
    found: dict[Source, list[int]] = {}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    async with asyncio.timeout(within_s), consumer:
        topics = {topic for inputs in GROUPS.values() for topic in inputs}
        sources = {
            TopicPartition(kafka.prefix + topic, number): (topic, number)
            for topic in topics
            for number in range(kafka.partitions)
        }
        found = {source: [] for source in sources.values()}
        consumer.assign(list(sources))
        ends = await consumer.end_offsets(list(sources))
        while any([await consumer.position(where) < ends[where] for where in sources]):
            for where, records in (await consumer.getmany(timeout_ms=200)).items():
                found[sources[where]] += [record.offset for record in records]
    return found
