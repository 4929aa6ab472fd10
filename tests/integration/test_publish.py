"""The publisher that upstream apps use: checked before it is sent, resolved when the broker has it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_worker import publish, topics
from stream_worker.contract import decode
from stream_worker.errors import Exit, UserError
from stream_worker.events import ImageEvent
from stream_worker.publish import Publisher, SyncPublisher
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


async def test_how_topics_are_cut_is_no_business_of_a_publishers(settings: Settings) -> None:
    default = Settings(kafka=Kafka(bootstrap_servers=settings.kafka.bootstrap_servers, prefix=settings.kafka.prefix))
    assert default.kafka.partitions > settings.kafka.partitions
    async with Publisher(default) as publisher:
        assert (await publisher.publish("https://x.test/a.jpg", image_id="a")).image_id == "a"


async def test_outside_its_context_a_publisher_says_how_to_use_it(settings: Settings) -> None:
    with pytest.raises(UserError, match="async with"):
        await Publisher(settings).publish("u")


async def test_many_are_published_in_their_order(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "AT_ONCE", 7)
    photos = [{"url": f"https://x.test/{number}", "image_id": f"image-{number}"} for number in range(50)]
    async with Publisher(settings) as publisher:
        sent = [one async for one in publisher.publish_many(photos)]
    assert [one.image_id for one in sent] == [photo["image_id"] for photo in photos]
    assert len({(one.partition, one.offset) for one in sent}) == 50


async def test_the_first_of_many_that_is_wrong_ends_them(settings: Settings) -> None:
    photos = [{"url": "https://x.test/1"}, {"url": ""}, {"url": "https://x.test/2"}]
    async with Publisher(settings) as publisher:
        sending = publisher.publish_many(photos)
        assert (await anext(sending)).image_id
        with pytest.raises(UserError, match="url"):
            await anext(sending)
        await publisher.publish("https://x.test/3")


def test_without_an_event_loop(kafka: str, prefix: str) -> None:
    settings = Settings(kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=3))
    asyncio.run(topics.create(settings.kafka))
    with SyncPublisher(settings) as publisher:
        assert publisher.publish("https://x.test/1", image_id="one", metadata={"order": 7}).image_id == "one"
        with pytest.raises(UserError, match="url"):
            publisher.publish("")
        with ThreadPoolExecutor(4) as threads:
            sent = list(threads.map(lambda number: publisher.publish(f"https://x.test/{number}"), range(20)))
        sent += publisher.publish_many({"url": f"https://x.test/{number}"} for number in range(20))
    assert len({(one.partition, one.offset) for one in sent}) == 40
    with pytest.raises(UserError, match="as a context"):
        publisher.publish("https://x.test/late")
    assert not [thread for thread in threading.enumerate() if thread.name == "publisher"]


def test_without_an_event_loop_and_without_a_broker() -> None:
    nowhere = Settings(kafka=Kafka(bootstrap_servers="127.0.0.1:9", request_timeout_ms=2000))
    with pytest.raises(UserError) as error, SyncPublisher(nowhere):
        pass
    assert error.value.exit_code is Exit.BROKER
    assert not [thread for thread in threading.enumerate() if thread.name == "publisher"]
