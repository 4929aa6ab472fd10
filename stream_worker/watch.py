"""Following completed images: `stream-worker watch`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from stream_worker import telemetry, topics
from stream_worker.contract import decode
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.events import CompletedImageEvent
from stream_worker.settings import Settings

log = telemetry.get(__name__)


async def completed(settings: Settings, *, from_start: bool = False) -> AsyncIterator[CompletedImageEvent]:
    """Completed images as they come, for ever; with `from_start`, those that the topic still has before them.

    Without a group: nobody's offsets move. Raises UserError where the broker or the topic is missing.
    """
    await topics.require(settings.kafka)
    consumer = AIOKafkaConsumer(
        settings.kafka.prefix + topics.COMPLETED,
        bootstrap_servers=settings.kafka.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest" if from_start else "latest",
    )
    try:
        async with asyncio.timeout(settings.kafka.request_timeout_ms / 1000):
            await consumer.start()
    except (KafkaError, TimeoutError) as error:
        await consumer.stop()
        raise UserError(f"no Kafka broker answers: {error}", Exit.BROKER) from None
    try:
        while True:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    try:
                        yield decode(CompletedImageEvent, record.value)
                    except RecordFault as fault:
                        log.warning(
                            "unreadable event", partition=record.partition, offset=record.offset, error=str(fault)
                        )
    finally:
        await consumer.stop()
