"""Reading a run's events as any app could: read_committed, in no group, from where the topics ended before it began."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from stream_worker import events, telemetry, topics
from stream_worker.contract import decode
from stream_worker.demo.record import RunRecord
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.security import client
from stream_worker.settings import Kafka

READ: dict[str, type[events.Event]] = {
    topics.DETECTIONS: events.DetectionEvent,
    topics.OBJECTS: events.ObjectEvent,
    topics.RECONSTRUCTIONS: events.ReconstructionEvent,
    topics.COMPLETED: events.CompletedImageEvent,
}

POLL_MS = 200
STRAGGLERS_S = 5.0
"""For events of other topics, when every image has completed: they are committed already."""

STOP_S = 5.0

log = telemetry.get(__name__)


class Follower:
    """Fills a RunRecord. Enter it before the first photo is published: what is older is not read."""

    def __init__(self, kafka: Kafka, record: RunRecord) -> None:
        self._kafka = kafka
        self._record = record
        self._consumer = AIOKafkaConsumer(
            *(kafka.prefix + topic for topic in READ),
            bootstrap_servers=kafka.bootstrap_servers,
            **client(kafka),
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # a position that is gone meanwhile
        )

    async def __aenter__(self) -> Self:
        """Connect, and note where the topics end. Raises UserError where the broker does not answer."""
        try:
            async with asyncio.timeout(2 * self._kafka.request_timeout_ms / 1000):
                await self._consumer.start()
                await self._consumer.seek_to_end()
        except (KafkaError, TimeoutError) as error:
            await self._stop()
            raise UserError(f"no Kafka broker answers: {type(error).__name__}: {error}", Exit.BROKER) from None
        except asyncio.CancelledError:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._consumer.stop()

    async def until_whole(self, changed: Callable[[], None], stall_s: float) -> bool:
        """Read until every image has its outcome, calling `changed` after news; False after `stall_s` without any."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + stall_s
        while not self._record.whole:
            if await self._read():
                deadline = loop.time() + (stall_s if self._record.waiting else STRAGGLERS_S)
                changed()
            elif loop.time() >= deadline:
                break
        return not self._record.waiting

    async def _read(self) -> bool:
        news = False
        for partition, records in (await self._consumer.getmany(timeout_ms=POLL_MS)).items():
            event_type = READ[partition.topic.removeprefix(self._kafka.prefix)]
            for record in records:
                source = dict(record.headers).get("ce_source", b"").decode("utf-8", "replace")
                try:
                    event = decode(event_type, record.value)
                except RecordFault as fault:
                    log.warning("unreadable event", topic=partition.topic, offset=record.offset, error=fault.message)
                    continue
                news |= self._record.add(event, source.rpartition("/")[2])
        return news
