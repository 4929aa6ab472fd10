"""The changelog on a real broker: what a new owner of a lane reads is what was committed, all of it, and no more."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream_worker import contract, topics
from stream_worker.aggregator import changelog
from stream_worker.aggregator.join import Change
from stream_worker.aggregator.service import Aggregator
from stream_worker.errors import FatalError, OutageError
from stream_worker.events import CompletedImageEvent, DetectionEvent, JoinStateEvent, ReconstructionEvent
from stream_worker.records import Output, Received
from stream_worker.settings import Aggregator as AggregatorSettings
from stream_worker.settings import Kafka, Settings
from tests.unit.aggregator.examples import at, manifest, result

LANE = 1


@pytest.fixture
async def topic(kafka: str, prefix: str) -> str:
    """A changelog of two partitions."""
    name = prefix + topics.CHANGELOG
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, 2, 1, topic_configs={"cleanup.policy": "compact"})])
    finally:
        await admin.close()
    return name


def made(kafka: str, prefix: str) -> Aggregator:
    settings = Settings(
        kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=2), aggregator=AggregatorSettings(grace_s=50)
    )
    return Aggregator(settings, clock=lambda: at(10))


@pytest.fixture
def aggregator(kafka: str, prefix: str, topic: str) -> Aggregator:
    return made(kafka, prefix)


@asynccontextmanager
async def owner(kafka: str, prefix: str) -> AsyncIterator[AIOKafkaProducer]:
    """The lane's producer. A second one fences the first."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=f"{prefix}lane-{LANE}")
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def send(producer: AIOKafkaProducer, topic: str, outputs: Sequence[Output]) -> None:
    """Write the outputs that are for the changelog; each in a batch of its own, as slow traffic has it."""
    for output in outputs:
        if output.topic == topics.CHANGELOG:
            await producer.send_and_wait(topic, output.value, output.key, partition=output.partition)


async def commit(producer: AIOKafkaProducer, topic: str, outputs: Sequence[Output]) -> None:
    async with producer.transaction():
        await send(producer, topic, outputs)


async def abort(producer: AIOKafkaProducer, topic: str, outputs: Sequence[Output]) -> None:
    await producer.begin_transaction()
    await send(producer, topic, outputs)
    await producer.abort_transaction()


async def fed(aggregator: Aggregator, *events: DetectionEvent | ReconstructionEvent) -> list[Output]:
    """What the aggregator answers to these events on the lane."""
    outputs: list[Output] = []
    for event in events:
        source = topics.DETECTIONS if isinstance(event, DetectionEvent) else topics.RECONSTRUCTIONS
        outputs += await aggregator.process(Received(source, LANE, 0, 0, None, contract.encode(event)))
    return outputs


def completed(outputs: Sequence[Output]) -> list[CompletedImageEvent]:
    found = [output.value for output in outputs if output.topic == topics.COMPLETED]
    return [contract.decode(CompletedImageEvent, value) for value in found]


async def restored(kafka: str, topic: str, lane: int = LANE, patience_s: float = 30) -> list[changelog.Piece]:
    pieces: list[changelog.Piece] = []
    barrier = await changelog.mark(kafka, topic, lane, patience_s=patience_s)
    await changelog.restore(kafka, topic, lane, barrier, pieces.append, patience_s=patience_s)
    return pieces


async def test_empty(kafka: str, topic: str) -> None:
    assert await restored(kafka, topic) == []


async def test_goes_on_where_the_last_owner_committed(
    kafka: str, prefix: str, topic: str, aggregator: Aggregator
) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer:
        await commit(producer, topic, await fed(aggregator, manifest(3), manifest(2, "other")))
        await commit(producer, topic, await fed(aggregator, result(2), result(1, failed=True), result(0, "other")))
        lost = await fed(aggregator, result(0))
        assert [event.status for event in completed(lost)] == ["partial"]
        await abort(producer, topic, lost)
    held = aggregator.sizes()[LANE]

    await aggregator.close(LANE)
    await aggregator.open(LANE)

    assert (held.open, aggregator.sizes()[LANE].open) == (1, 2)
    assert aggregator.sizes()[LANE].results == 3
    [again] = completed(await fed(aggregator, result(0)))
    assert (again.revision, [found.status for found in again.objects]) == (
        1,
        ["reconstructed", "failed", "reconstructed"],
    )
    [other] = completed(await fed(aggregator, result(1, "other")))
    assert other.status == "complete"


async def test_a_state_that_nobody_else_has_had_is_kept(
    kafka: str, prefix: str, topic: str, aggregator: Aggregator
) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer:
        await commit(producer, topic, await fed(aggregator, manifest(3), result(2)))
        join = aggregator._lanes[LANE]
        await aggregator.seal(LANE)
        await aggregator.close(LANE, sealed=True)
        await aggregator.open(LANE)
        assert aggregator._lanes[LANE] is join
        await commit(producer, topic, await fed(aggregator, result(1)))

        await aggregator.close(LANE)  # not sealed: some of it may not be written
        await aggregator.open(LANE)
        assert aggregator._lanes[LANE] is not join
        assert aggregator.sizes()[LANE].results == 2
    await aggregator.stop()


async def test_a_state_is_not_kept_past_another_owner(
    kafka: str, prefix: str, topic: str, aggregator: Aggregator
) -> None:
    other = made(kafka, prefix)
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer:
        await commit(producer, topic, await fed(aggregator, manifest(3), result(2)))
        await aggregator.seal(LANE)
        await aggregator.close(LANE, sealed=True)
        await other.open(LANE)
        await commit(producer, topic, await fed(other, result(1)))
        await other.close(LANE)
        await aggregator.open(LANE)
        assert aggregator.sizes()[LANE].results == 2
        [whole] = completed(await fed(aggregator, result(0)))
        assert whole.status == "complete"
    await aggregator.stop()


async def test_tombstones_take_away(kafka: str, prefix: str, topic: str, aggregator: Aggregator) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer:
        await commit(producer, topic, await fed(aggregator, manifest(2), result(0), result(1)))
        [image] = await restored(kafka, topic)
        assert image.image is not None
        assert image.image.final
        aggregator._clock = lambda: at(151)
        await commit(producer, topic, await aggregator.tick(LANE))
    assert await restored(kafka, topic) == []


async def test_only_its_own_lane(kafka: str, prefix: str, topic: str, aggregator: Aggregator) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer:
        await commit(producer, topic, await fed(aggregator, manifest(2)))
    assert await restored(kafka, topic, 1 - LANE) == []


async def test_ends_after_a_long_tail_of_aborted_records_and_markers(
    kafka: str, prefix: str, topic: str, aggregator: Aggregator
) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer:
        await commit(producer, topic, await fed(aggregator, manifest(2)))
        for index in range(20):
            await abort(producer, topic, await fed(aggregator, manifest(2, f"aborted-{index}")))
    assert [piece.image_id for piece in await restored(kafka, topic)] == ["photo"]


async def test_waits_for_an_open_transaction_rather_than_stop_before_it(
    kafka: str, prefix: str, topic: str, aggregator: Aggregator
) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer:
        await producer.begin_transaction()
        await send(producer, topic, await fed(aggregator, manifest(2)))
        with pytest.raises(OutageError, match="nothing has moved"):
            await restored(kafka, topic, patience_s=2)
        reading = asyncio.create_task(restored(kafka, topic))
        await producer.commit_transaction()
        assert [piece.image_id for piece in await reading] == ["photo"]


async def test_the_open_transaction_of_a_dead_owner_is_not_seen(
    kafka: str, prefix: str, topic: str, aggregator: Aggregator
) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as dead:
        await dead.begin_transaction()
        await send(dead, topic, await fed(aggregator, manifest(2)))
        async with owner(kafka, prefix):
            assert await restored(kafka, topic) == []


async def test_many_records(kafka: str, prefix: str, topic: str, aggregator: Aggregator) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer, producer.transaction():
        for number in range(500):
            for output in await fed(aggregator, manifest(4, f"photo-{number}"), result(0, f"photo-{number}")):
                await producer.send(topic, output.value, output.key, partition=output.partition)
    await aggregator.close(LANE)
    await aggregator.open(LANE)
    assert (aggregator.sizes()[LANE].open, aggregator.sizes()[LANE].results) == (500, 500)


IMAGE_KEY = changelog.key_of("photo", "live")
VALID = contract.encode(JoinStateEvent(image_id="photo", run="live", result=result(0)))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (IMAGE_KEY, b"\x00garbage", "not JSON"),
        (IMAGE_KEY, b'{"version": 1, "image_id": "photo"}', "run"),
        (IMAGE_KEY, b'{"version": 1, "image_id": "photo", "run": "live"}', "neither"),
        (IMAGE_KEY, VALID, "names something else"),
        (b"", VALID, "names something else"),
        (changelog.key_of("photo", "live", "0" * 32), VALID, "names something else"),
    ],
)
async def test_corrupt_record_halts(
    kafka: str, prefix: str, topic: str, aggregator: Aggregator, key: bytes, value: bytes, why: str
) -> None:
    await aggregator.open(LANE)
    async with owner(kafka, prefix) as producer:
        await commit(producer, topic, await fed(aggregator, manifest(1, "before")))
        async with producer.transaction():
            bad = await producer.send_and_wait(topic, value, key, partition=LANE)
        await commit(producer, topic, await fed(aggregator, manifest(1, "after")))
        await aggregator.close(LANE)
        with pytest.raises(FatalError, match=why) as caught:
            await aggregator.open(LANE)
        assert f"{topic}-{LANE} offset {bad.offset}" in str(caught.value)
        # The way out, for who knows that nothing is lost by it:
        await commit(producer, topic, [Output(topics.CHANGELOG, key, None, partition=LANE)])
        await aggregator.open(LANE)
        assert aggregator.sizes()[LANE].open == 2


@pytest.mark.timeout(180)
async def test_what_is_outdated_is_compacted_away_while_the_log_grows(kafka: str, prefix: str) -> None:
    settings = Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=2)
    await topics.create(settings)
    topic, written = prefix + topics.CHANGELOG, 6000
    producer = AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=20)
    await producer.start()
    try:
        sent = []
        for number in range(written):  # some 12 MB: three segments, of which two are closed
            large = result(number % 10).model_copy(update={"fingerprint": "f" * 2000})
            state = JoinStateEvent(image_id="photo", run="live", result=large)
            key, value = changelog.record(Change("photo", "live", large.object_id, state))
            sent.append(await producer.send(topic, value, key, partition=LANE))
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    async with asyncio.timeout(120):
        while await length(kafka, topic) > written * 2 / 3:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(2)
    pieces = await restored(kafka, topic)
    assert len(pieces) == 10


async def length(kafka: str, topic: str) -> int:
    """Records that can be read of the lane."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(topic, LANE)
        consumer.assign([partition])
        [end] = (await consumer.end_offsets([partition])).values()
        found = 0
        while await consumer.position(partition) < end:
            found += sum(map(len, (await consumer.getmany(partition, timeout_ms=200)).values()))
        return found
    finally:
        await consumer.stop()


async def test_missing_topic_is_an_outage(kafka: str, prefix: str) -> None:
    with pytest.raises(OutageError, match="no barrier was taken"):
        await changelog.mark(kafka, f"{prefix}nowhere", LANE, patience_s=1)
    with pytest.raises(OutageError, match="nothing has moved"):
        await changelog.restore(kafka, f"{prefix}nowhere", LANE, 0, [].append, patience_s=1)


async def test_no_broker_is_an_outage() -> None:
    with socket.socket() as held:  # bound and not listening: nobody else can answer there
        held.bind(("127.0.0.1", 0))
        with pytest.raises(OutageError):
            await restored(f"127.0.0.1:{held.getsockname()[1]}", "any", patience_s=5)


@pytest.mark.parametrize("steps", range(8))
async def test_a_cancellation_while_the_consumer_stops_is_not_lost(
    kafka: str, topic: str, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """aiokafka's stop suppresses CancelledError: a lane that was told to close went on, and hung its process."""
    stopping = asyncio.Event()
    stop = AIOKafkaConsumer.stop

    async def announced(consumer: AIOKafkaConsumer) -> None:
        stopping.set()
        await stop(consumer)

    monkeypatch.setattr(AIOKafkaConsumer, "stop", announced)
    reading = asyncio.create_task(restored(kafka, topic))
    await stopping.wait()
    for _ in range(steps):
        await asyncio.sleep(0)
    in_time = reading.cancel()
    await asyncio.wait({reading})
    assert reading.cancelled() == in_time
