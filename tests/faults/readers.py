"""Readers of the outcomes: one that is there during the faults, one that comes after. read_committed, as an app."""

from __future__ import annotations

import asyncio
import contextlib

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_worker import topics
from stream_worker.closing import close_within, end
from stream_worker.contract import decode
from stream_worker.events import CompletedImageEvent
from stream_worker.settings import Kafka

STOP_S = 5.0


class Reader:
    """Reads every completed image from the beginning, for as long as the context lasts."""

    def __init__(self, kafka: Kafka) -> None:
        self.events: list[CompletedImageEvent] = []
        self.images: set[str] = set()
        self._kafka = kafka
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap_servers,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            request_timeout_ms=kafka.request_timeout_ms,
        )
        self._sources = [TopicPartition(kafka.prefix + topics.COMPLETED, n) for n in range(kafka.partitions)]
        self._read_to: dict[TopicPartition, int] = {}
        self._more = asyncio.Condition()
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Reader:
        await self._consumer.start()
        self._consumer.assign(self._sources)
        self._task = asyncio.create_task(self._read(), name="reader")
        return self

    async def __aexit__(self, *_: object) -> None:
        await end(self._task)
        await close_within(STOP_S, self._consumer.stop())

    async def until(self, images: int, within_s: float) -> bool:
        """Wait until so many images have an outcome; False where the time is up before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._more:
                await self._more.wait_for(lambda: len(self.images) >= images or self._task.done())
        if self._task.done():
            self._task.result()
        return len(self.images) >= images

    async def to_the_end(self, within_s: float) -> None:
        """Wait until everything that is in the topic now has been read. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            ends = await self._consumer.end_offsets(self._sources)
            while any(self._read_to.get(source, 0) < ends[source] for source in self._sources):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def _read(self) -> None:
        while True:
            try:
                received = await self._consumer.getmany(timeout_ms=200)
            except KafkaError:
                await asyncio.sleep(0.5)  # a node is away: its partitions come again from another one
                continue
            found = [decode(CompletedImageEvent, record.value) for some in received.values() for record in some]
            async with self._more:
                self.events += found
                self.images |= {event.image_id for event in found}
                self._more.notify_all()
            # Markers are behind the last record: only the consumer knows that they were passed.
            self._read_to = {source: await self._consumer.position(source) for source in self._sources}
