"""The private broker: started, stopped, killed, found again."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


async def test_session_broker_does_transactions(kafka: str, prefix: str) -> None:
    topic = f"{prefix}a"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 12, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=f"{prefix}tx")
    async with producer, producer.transaction():
        await (await producer.send(topic, b"committed"))
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest"
    ) as consumer:
        record = await asyncio.wait_for(consumer.getone(), 20)
    assert record.value == b"committed"
