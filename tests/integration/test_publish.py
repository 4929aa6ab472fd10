"""The publisher that upstream apps use: checked before it is sent, resolved when the broker has it."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.errors import Exit, UserError
from stream_worker.events import ImageEvent
from stream_worker.publish import Publisher
from stream_worker.settings import Kafka, Settings


@pytest.fixture
async def settings(kafka: str, prefix: str) -> Settings:
    made = Settings(kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=3))
    await topics.create(made.kafka)
    return made


async def test_an_event_lies_where_it_was_said_to(settings: Settings) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with Publisher(settings) as publisher:
        sent = await publisher.publish(
            "https://x.test/a.jpg", image_id="a", classes=["sofa"], metadata={"order": None}, traceparent=trace
        )
    where = TopicPartition(settings.kafka.prefix + topics.IMAGES, sent.partition)
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await consumer.start()
    try:
        consumer.assign([where])
        consumer.seek(where, sent.offset)
        record = await consumer.getone()
    finally:
        await consumer.stop()
    event = decode(ImageEvent, record.value)
    assert (record.key, event.image_id, event.run, event.classes) == (b"a", "a", "live", ["sofa"])
    assert event.metadata == {"order": None}
    headers = dict(record.headers)
    assert headers["ce_type"] == b"stream_worker.image.v1"
    assert headers["traceparent"] == trace.encode()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"url": ""}, "url"),
        ({"url": "u", "image_id": ""}, "image_id"),
        ({"url": "u", "image_id": "x" * 257}, "image_id"),
        ({"url": "u", "run": "a/b"}, "run"),
        ({"url": "u", "deadline_s": -1}, "deadline_s"),
        ({"url": "u", "metadata": {"x": object()}}, "metadata"),
        ({"url": "u", "metadata": {"x": "y" * 2_000_000}}, "refused"),
    ],
)
async def test_a_wrong_event_is_refused_before_it_is_sent(settings: Settings, wrong: dict, says: str) -> None:
    async with Publisher(settings) as publisher:
        with pytest.raises(UserError, match=says) as error:
            await publisher.publish(**wrong)
    assert "\n" not in str(error.value)


async def test_without_topics_nothing_is_published(kafka: str, prefix: str) -> None:
    with pytest.raises(UserError, match="images is missing") as error:
        async with Publisher(Settings(kafka=Kafka(bootstrap_servers=kafka, prefix=prefix))):
            pass
    assert error.value.exit_code is Exit.TOPICS


async def test_outside_its_context_a_publisher_says_how_to_use_it(settings: Settings) -> None:
    with pytest.raises(UserError, match="async with"):
        await Publisher(settings).publish("u")
