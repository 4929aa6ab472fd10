"""The aggregator under the real runner on a real broker: one outcome an image, whoever owns its lane meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stream_worker import contract, metrics, topics
from stream_worker.aggregator.service import Aggregator
from stream_worker.errors import FatalError, Reason, RecordFault, UserError
from stream_worker.events import CompletedImageEvent, DetectionEvent, ReconstructionEvent, object_id, utc_now
from stream_worker.lane import limit
from stream_worker.records import Output, Received
from stream_worker.settings import Aggregator as AggregatorSettings
from stream_worker.settings import Kafka, Settings
from stream_worker.settings import Stage as StageSettings
from tests.staging import running
from tests.unit.aggregator.examples import at, manifest, result

PARTITIONS = 3
Event = DetectionEvent | ReconstructionEvent


@pytest.fixture
async def settings(kafka: str, prefix: str) -> Settings:
    made = Settings(
        kafka=Kafka(
            bootstrap_servers=kafka,
            prefix=prefix,
            partitions=PARTITIONS,
            session_timeout_ms=6000,
            rebalance_timeout_ms=10_000,
            max_event_bytes=100_000,
        ),
        stage=StageSettings(drain_s=2, batch=20),
    )
    await topics.create(made.kafka)
    return made


async def publish(settings: Settings, events: Iterable[Event]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await producer.start()
    try:
        for event in events:
            topic = topics.DETECTIONS if isinstance(event, DetectionEvent) else topics.RECONSTRUCTIONS
            await producer.send(settings.kafka.prefix + topic, contract.encode(event), event.image_id.encode())
    finally:
        await producer.stop()


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """Reads completed-images from the start, committed only."""
    consumer = AIOKafkaConsumer(
        settings.kafka.prefix + topics.COMPLETED,
        bootstrap_servers=settings.kafka.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def read(consumer: AIOKafkaConsumer, count: int) -> list[CompletedImageEvent]:
    """The next `count` outcomes."""
    outcomes: list[CompletedImageEvent] = []
    async with asyncio.timeout(90):
        while len(outcomes) < count:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                outcomes += [contract.decode(CompletedImageEvent, record.value) for record in records]
    return outcomes


def soon(event: Event, seconds: float) -> Event:
    """The event with its deadline so many seconds from now."""
    return event.model_copy(update={"deadline_at": utc_now() + timedelta(seconds=seconds)})


async def test_every_image_once_while_owners_come_and_go(settings: Settings) -> None:
    images = {f"photo-{number}": number % 5 for number in range(120)}
    events: list[Event] = []
    for image_id, count in images.items():
        events += [soon(manifest(count, image_id), 600)] * 2
        for index in range(count):
            events += [soon(result(index, image_id, failed=(count, index) == (4, 0)), 600)] * 2
    random.Random(7).shuffle(events)
    last = soon(manifest(0, "last"), 600)
    third = len(events) // 3
    async with reader(settings) as consumer:
        async with running(Aggregator(settings), settings):
            await publish(settings, events[:third])
            outcomes = await read(consumer, 1)
            async with running(Aggregator(settings), settings):
                await publish(settings, events[third : 2 * third])
                outcomes += await read(consumer, 1)
        async with running(Aggregator(settings), settings):
            await publish(settings, events[2 * third :])
            outcomes += await read(consumer, len(images) - len(outcomes))
            await publish(settings, [last])
            outcomes += await read(consumer, 1)
    found = sorted((o.image_id, o.revision, o.status, len(o.objects)) for o in outcomes)
    expected = [(name, 1, "partial" if count == 4 else "complete", count) for name, count in images.items()]
    assert found == sorted([*expected, ("last", 1, "complete", 0)])


async def test_a_restarted_owner_keeps_the_deadline(settings: Settings) -> None:
    async with reader(settings) as consumer:
        async with running(Aggregator(settings), settings):
            await publish(settings, [soon(manifest(2), 3), soon(result(0), 3), soon(manifest(0, "mark"), 3)])
            assert [o.image_id for o in await read(consumer, 1)] == ["mark"]
        async with running(Aggregator(settings), settings):
            [outcome] = await read(consumer, 1)
            assert [found.status for found in outcome.objects] == ["reconstructed", "missing"]
            assert outcome.objects[1].object_id == object_id("photo", "live", 1)
            await publish(settings, [soon(result(1), 3)])
            [outcome] = await read(consumer, 1)
            assert (outcome.status, outcome.revision) == ("complete", 2)


async def until_committed(settings: Settings, topic: str, count: int) -> None:
    """Wait until the group has committed `count` records of this input."""
    async with topics.admin(settings.kafka) as admin, asyncio.timeout(90):
        while True:
            offsets = await admin.list_consumer_group_offsets(settings.kafka.prefix + "aggregator")
            done = (there.offset for at, there in offsets.items() if at.topic == settings.kafka.prefix + topic)
            if sum(offset for offset in done if offset > 0) >= count:
                return
            await asyncio.sleep(0.1)


async def test_results_that_come_before_the_manifest_wait_for_it(settings: Settings) -> None:
    """Through a change of owners, too: what came first is in the changelog."""
    results = [soon(result(index), 600) for index in (2, 0, 1)]
    async with reader(settings) as consumer:
        async with running(Aggregator(settings), settings):
            await publish(settings, results)
            await until_committed(settings, topics.RECONSTRUCTIONS, len(results))
        async with running(Aggregator(settings), settings):
            await publish(settings, [soon(manifest(3), 600)])
            [outcome] = await read(consumer, 1)
            assert (outcome.status, outcome.revision) == ("complete", 1)
            assert [found.index for found in outcome.objects] == [0, 1, 2]


async def test_results_whose_manifest_does_not_come_in_time(settings: Settings) -> None:
    async with reader(settings) as consumer, running(Aggregator(settings), settings):
        await publish(settings, [soon(result(0), 2)])
        [outcome] = await read(consumer, 1)
        assert (outcome.status, outcome.revision) == ("failed", 1)
        await publish(settings, [soon(manifest(2), 2)])
        [outcome] = await read(consumer, 1)
        assert (outcome.status, outcome.revision) == ("partial", 2)
        assert [found.status for found in outcome.objects] == ["reconstructed", "missing"]
        assert outcome.objects[1].object_id == object_id("photo", "live", 1)


# ---------------------------------------------------------------------- what it answers, without the runner


@pytest.fixture
async def aggregator(settings: Settings) -> Aggregator:
    made = Aggregator(settings, clock=lambda: at(10))
    await made.open(0)
    return made


def received(event: Event) -> Received:
    topic = topics.DETECTIONS if isinstance(event, DetectionEvent) else topics.RECONSTRUCTIONS
    return Received(topic, 0, 0, 0, None, contract.encode(event), (("traceparent", b"00-a-b-01"),))


def outcome_in(outputs: list[Output]) -> CompletedImageEvent:
    [value] = [output.value for output in outputs if output.topic == topics.COMPLETED]
    return contract.decode(CompletedImageEvent, value)


async def test_outputs(aggregator: Aggregator) -> None:
    opened = await aggregator.process(received(manifest(1)))
    assert [(output.topic, output.partition) for output in opened] == [(topics.CHANGELOG, 0)]
    completed, state = await aggregator.process(received(result(0)))
    assert (completed.topic, completed.key, completed.partition) == (topics.COMPLETED, b"photo", None)
    assert (state.topic, state.key, state.partition) == (topics.CHANGELOG, b'["photo","live"]', 0)
    assert ("ce_type", b"stream_worker.completed-image.v1") in completed.headers
    assert ("traceparent", b"00-a-b-01") in completed.headers


@pytest.mark.parametrize("value", [None, b"{", b"{}"])
@pytest.mark.parametrize("topic", [topics.DETECTIONS, topics.RECONSTRUCTIONS])
async def test_what_is_no_event_is_a_fault_of_the_record(
    aggregator: Aggregator, topic: str, value: bytes | None
) -> None:
    record = Received(topic, 0, 0, 0, b"photo", value)
    with pytest.raises(RecordFault) as caught:
        await aggregator.process(record)
    assert caught.value.reason == Reason.INVALID_EVENT
    assert aggregator.failed(record, caught.value) == []
    assert aggregator.sizes()[0].open == 0


async def test_outcome_that_fits_in_no_event_is_failed(aggregator: Aggregator) -> None:
    await aggregator.process(received(manifest(1, metadata={"note": "x" * 99_000})))
    outcome = outcome_in(await aggregator.process(received(result(0))))
    assert outcome.status == "failed"
    assert outcome.reason is not None
    assert outcome.reason.code == Reason.EVENT_TOO_LARGE
    assert outcome.metadata is None


async def test_manifest_that_fits_in_no_state_is_failed(aggregator: Aggregator) -> None:
    outputs = await aggregator.process(received(manifest(1, metadata={"note": "x" * 100_000})))
    assert outcome_in(outputs).reason.code == Reason.EVENT_TOO_LARGE  # type: ignore[union-attr]
    assert all(len(output.value or b"") < 2000 for output in outputs)


def gauge(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"stream_worker_join_{name}", labels)


async def test_a_lane_is_full_of_images_and_then_not_any_more(settings: Settings) -> None:
    """With two lanes open, each has half of the 8 MB: 2 MB for images that wait for results, 1 MB for results without
    manifests."""
    small = settings.model_copy(update={"aggregator": AggregatorSettings(memory_mb=8)})
    now = at(10)
    aggregator = Aggregator(small, clock=lambda: now)
    for lane in (0, 1):
        await aggregator.open(lane)
    images = results = 0
    while not aggregator.full(0):
        await aggregator.process(received(manifest(20, f"photo-{images}")))
        images += 1
        assert images < 70
    assert aggregator.full(0) == {topics.DETECTIONS}
    assert aggregator.full(1) == frozenset()
    assert images > 40
    while topics.RECONSTRUCTIONS not in aggregator.full(0):
        await aggregator.process(received(result(0, f"other-{results}")))
        results += 1
        assert results < 1000
    assert aggregator.full(0) == {topics.DETECTIONS, topics.RECONSTRUCTIONS}
    assert gauge("images", state="awaiting_results") == images
    assert gauge("images", state="awaiting_manifest") == results
    held = gauge("bytes")
    assert held is not None
    assert 1e6 < held < 8e6
    assert gauge("full_lanes") == 1
    await aggregator.close(1)  # the lane has all the room now
    assert aggregator.full(0) == frozenset()
    assert gauge("full_lanes") == 0
    now = at(100)
    while outputs := await aggregator.tick(0):
        assert len([output for output in outputs if output.topic == topics.COMPLETED]) <= 200
    assert gauge("images", state="awaiting_results") == 0
    assert gauge("images", state="finished") == images


async def test_images_that_are_forgotten_early_are_counted_and_the_floor_is_written(settings: Settings) -> None:
    small = settings.model_copy(update={"aggregator": AggregatorSettings(memory_mb=8)})
    aggregator = Aggregator(small, clock=lambda: at(10))
    await aggregator.open(0)
    before = gauge("forgotten_early_total") or 0.0
    for number in range(2 * 2**20 // 1000):
        outputs = await aggregator.process(received(manifest(0, f"photo-{number}")))
        assert len(outputs) == 2
    outputs = await aggregator.process(received(manifest(0, "one-too-many")))
    assert [output.key for output in outputs if output.topic == topics.CHANGELOG][-1] == b"[]"
    assert gauge("forgotten_early_total") == before + 1
    assert gauge("images", state="finished") == number + 1


async def test_the_metrics_tell_how_long_images_are_open_and_which_their_deadline_ended(settings: Settings) -> None:
    now = at(10)
    aggregator = Aggregator(settings, clock=lambda: now)
    await aggregator.open(0)
    expired = gauge("expired_total") or 0.0
    ended = {status: _ended(status) for status in ("complete", "partial", "failed")}
    await aggregator.process(received(manifest(1, "first")))
    now = at(20)
    await aggregator.process(received(manifest(1, "second")))
    await aggregator.tick(0)
    now = at(40)
    assert gauge("oldest_seconds") == 30, "it goes on while nobody ticks"
    await aggregator.process(received(result(0, "first")))
    await aggregator.tick(0)
    assert gauge("oldest_seconds") == 20
    assert gauge("limit_bytes") == settings.aggregator.memory_mb * 2**20
    now = at(100)
    await aggregator.tick(0)
    assert gauge("oldest_seconds") == 0
    assert gauge("expired_total") == expired + 1
    await aggregator.process(received(result(0, "second")))  # a late one: the next revision
    assert {status: _ended(status) - before for status, before in ended.items()} == {
        "complete": 2,
        "partial": 1,
        "failed": 0,
    }
    assert gauge("expired_total") == expired + 1
    await aggregator.close(0)


def _ended(status: str) -> float:
    name = "stream_worker_image_seconds_count"
    return metrics.REGISTRY.get_sample_value(name, {"status": status}) or 0.0


async def test_lane_that_is_not_open_is_fatal(aggregator: Aggregator) -> None:
    await aggregator.close(0)
    with pytest.raises(FatalError, match="lane 0"):
        await aggregator.process(received(manifest(1)))
    with pytest.raises(FatalError, match="lane 0"):
        await aggregator.tick(0)


def test_one_transaction_holds_all_that_is_in_work() -> None:
    settings = Settings(kafka=Kafka(bootstrap_servers="any"))
    assert limit(Aggregator(settings).window, settings.stage.batch) <= settings.stage.batch


def test_needs_a_broker() -> None:
    with pytest.raises(UserError, match="bootstrap_servers"):
        Aggregator(Settings())
