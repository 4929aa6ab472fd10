"""The transactional runner on a real broker: every record once, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from stream_worker import lane, topics
from stream_worker.custody import Custody
from stream_worker.dead_letters import PREFIX
from stream_worker.errors import FatalError, OutageError, Reason, RecordFault, TransientFault
from stream_worker.lane import limit
from stream_worker.records import Output, Received
from stream_worker.settings import Kafka, Settings
from stream_worker.settings import Stage as StageSettings
from stream_worker.stage import OUT_OF_RANGE_S, Stage
from stream_worker.transaction import ProducerLostError, TransactionalProducer
from tests.staging import running

PARTITIONS = 3


class Echo:
    """A group that copies images to completed-images, after `work` had its say."""

    name = "echo"
    topics: tuple[str, ...] = (topics.IMAGES,)
    window = 8
    longest_s = 0.0

    def __init__(self, work: Callable[[Received], Awaitable[None]] | None = None) -> None:
        self.work = work
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.sealed: list[int] = []
        self.kept: list[int] = []
        self.ticks = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def open(self, number: int) -> None:
        self.opened.append(number)

    async def seal(self, number: int) -> None:
        self.sealed.append(number)

    async def close(self, number: int, *, sealed: bool = False) -> None:
        self.closed.append(number)
        self.kept += [number] if sealed else []

    async def tick(self, number: int) -> list[Output]:
        self.ticks += 1
        return []

    def full(self, number: int) -> frozenset[str]:
        return frozenset()

    async def process(self, record: Received) -> list[Output]:
        if self.work is not None:
            await self.work(record)
        return [Output(topics.COMPLETED, record.key, record.value)]

    def failed(self, record: Received, fault: RecordFault) -> list[Output]:
        return [Output(topics.COMPLETED, record.key, b"failed:" + fault.reason.value.encode())]


@pytest.fixture
async def settings(kafka: str, prefix: str) -> Settings:
    made = Settings(
        kafka=Kafka(
            bootstrap_servers=kafka,
            prefix=prefix,
            partitions=PARTITIONS,
            session_timeout_ms=6000,
            rebalance_timeout_ms=10_000,
        ),
        stage=StageSettings(drain_s=2, retry_delay_s=0.05),
    )
    await topics.create(made.kafka)
    return made


async def send(settings: Settings, values: list[bytes], partition: int | None = None) -> None:
    """Send values to one partition, or to all in turn; each once, also where a node has just stood still.

    Without the acknowledgement of all replicas, one that leads no more says yes to records that it then drops.
    """
    async with AIOKafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap_servers, enable_idempotence=True
    ) as producer:
        for number, value in enumerate(values):
            to = number % PARTITIONS if partition is None else partition
            await producer.send_and_wait(settings.kafka.prefix + topics.IMAGES, value, key=value, partition=to)


async def send_nothing(producer: AIOKafkaProducer, topic: str, headers: Sequence[tuple[str, bytes]] = ()) -> None:
    """A record without key and value, which Kafka takes and aiokafka's own `send` does not."""
    await producer.client._wait_on_metadata(topic)
    where = TopicPartition(topic, 0)
    await (await producer._message_accumulator.add_message(where, None, None, 10, headers=list(headers)))


async def read(settings: Settings, topic: str, count: int, within_s: float = 30) -> list[Received]:
    """The first `count` committed records, and whatever else comes within half a second more."""
    consumer = AIOKafkaConsumer(
        settings.kafka.prefix + topic,
        bootstrap_servers=settings.kafka.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    got: list[Received] = []
    try:
        async with asyncio.timeout(within_s):
            while len(got) < count:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    got += [
                        Received(topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in records
                    ]
        for records in (await consumer.getmany(timeout_ms=500)).values():
            got += [Received(topic, r.partition, r.offset, r.timestamp, r.key, r.value, r.headers) for r in records]
    except TimeoutError:
        came = dict(Counter(record.partition for record in got))
        at = {
            tp.partition: (await consumer.position(tp), consumer.last_stable_offset(tp), consumer.highwater(tp))
            for tp in consumer.assignment()
        }
        raise AssertionError(f"{len(got)} of {count} came, {came}; position, stable, end: {at}") from None
    finally:
        await consumer.stop()
    return got


async def stage_open(stage: Stage, number: int) -> None:
    """Wait until a lane of a stage has opened its gate."""
    async with asyncio.timeout(30):
        while not (number in stage._lanes and stage._lanes[number]._open):  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.05)


async def note(settings: Settings, source: TopicPartition, custody: Custody) -> None:
    """Write down what the last owner of a partition of which nothing is committed left."""
    producer = TransactionalProducer(settings.kafka, "another", settings.kafka.prefix + "echo")
    await producer.start()
    await producer.write([], {source: OffsetAndMetadata(0, custody.written())})
    await producer.stop()


def values_of(count: int) -> list[bytes]:
    return [f"photo-{number}".encode() for number in range(count)]


async def test_every_record_once(settings: Settings) -> None:
    await send(settings, values_of(100))
    async with running(Echo(), settings):
        got = await read(settings, topics.COMPLETED, 100)
    assert Counter(record.value for record in got) == Counter(values_of(100))


async def test_a_restart_goes_on_where_the_offsets_are(settings: Settings) -> None:
    await send(settings, values_of(30))
    async with running(Echo(), settings):
        await read(settings, topics.COMPLETED, 30)
    await send(settings, [b"later"])
    async with running(Echo(), settings):
        got = await read(settings, topics.COMPLETED, 31)
    assert Counter(record.value for record in got) == Counter([*values_of(30), b"later"])


async def test_a_position_that_a_node_does_not_have_is_no_reason_to_begin_again(settings: Settings) -> None:
    """So answers a node that was stopped, and does not know what was committed since: its log ends before that."""
    source = TopicPartition(settings.kafka.prefix + topics.IMAGES, 0)
    seen: list[int] = []

    async def noted(record: Received) -> None:
        seen.append(record.offset)

    await send(settings, values_of(4), partition=0)
    async with running(Echo(noted), settings) as stage:
        await read(settings, topics.COMPLETED, 4)
        stage._consumer.seek(source, 6)
        await asyncio.sleep(2 * OUT_OF_RANGE_S + 1)  # asked, and asked again
        await send(settings, [b"4", b"5", b"6"], partition=0)
        async with asyncio.timeout(30):
            while 6 not in seen:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
    assert seen == [0, 1, 2, 3, 6]


async def test_records_that_were_deleted_before_they_were_done_are_said_and_passed_over(settings: Settings) -> None:
    source = TopicPartition(settings.kafka.prefix + topics.IMAGES, 0)
    await send(settings, values_of(2), partition=0)
    async with running(Echo(), settings):
        await read(settings, topics.COMPLETED, 2)
    await send(settings, values_of(8)[2:], partition=0)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    await admin.delete_records({source: RecordsToDelete(before_offset=6)})
    await admin.close()
    with structlog.testing.capture_logs() as logs:
        async with running(Echo(), settings):
            got = await read(settings, topics.COMPLETED, 4)
    assert Counter(record.value for record in got) == Counter(values_of(8)[number] for number in (0, 1, 6, 7))
    (said,) = [line for line in logs if line["event"] == "records were deleted before they were done"]
    assert (said["topic"], said["partition"], said["offset"], said["goes_on_at"]) == ("images", 0, 2, 6)


async def test_order_within_a_lane_is_kept_though_attempts_overlap(settings: Settings) -> None:
    async def slow_evens(record: Received) -> None:
        await asyncio.sleep(0.05 if record.offset % 2 == 0 else 0)

    await send(settings, values_of(30))
    async with running(Echo(slow_evens), settings):
        got = await read(settings, topics.COMPLETED, 30)
    # Whatever overtook another in the work was not committed before it: nothing is missing, nothing twice.
    assert Counter(record.value for record in got) == Counter(values_of(30))
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, group_id=settings.kafka.prefix + "echo"
    )
    await consumer.start()
    try:
        for number in range(PARTITIONS):
            assert await consumer.committed(TopicPartition(settings.kafka.prefix + topics.IMAGES, number)) == 10
    finally:
        await consumer.stop()


async def test_a_fault_of_one_record_is_dead_lettered_and_the_others_go_on(settings: Settings) -> None:
    async def choosy(record: Received) -> None:
        if record.value == b"photo-4":
            raise RecordFault(Reason.NOT_AN_IMAGE, "a text")

    await send(settings, values_of(9))
    async with running(Echo(choosy), settings):
        got = await read(settings, topics.COMPLETED, 9)
        letters = await read(settings, topics.DEAD_LETTERS, 1)
    assert {r.value for r in got} == {*values_of(9)} - {b"photo-4"} | {b"failed:not_an_image"}
    assert len(letters) == 1
    headers = dict(letters[0].headers)
    assert letters[0].value == b"photo-4"
    assert headers[PREFIX + "reason"] == b"not_an_image"
    assert headers[PREFIX + "topic"] == b"images"
    assert headers[PREFIX + "stage"] == b"echo"
    assert headers[PREFIX + "attempts"] == b"1"


async def test_a_transient_fault_is_tried_again(settings: Settings) -> None:
    seen: Counter[bytes | None] = Counter()

    async def flaky(record: Received) -> None:
        seen[record.value] += 1
        if record.value == b"photo-0" and seen[record.value] < 3:
            raise TransientFault(Reason.FETCH_FAILED, "503")
        if record.value == b"photo-1":
            raise TransientFault(Reason.FETCH_TIMEOUT, "slow")

    await send(settings, values_of(3))
    async with running(Echo(flaky), settings):
        got = await read(settings, topics.COMPLETED, 3)
    assert {r.value for r in got} == {b"photo-0", b"photo-2", b"failed:fetch_timeout"}
    assert seen == {b"photo-0": 3, b"photo-1": 4, b"photo-2": 1}


async def test_while_a_record_is_tried_again_the_others_go_on(settings: Settings) -> None:
    """Also those behind it in its own lane: far more of them than are worked on at once. Only their commit waits."""
    others = asyncio.Event()
    done: set[bytes | None] = set()

    async def work(record: Received) -> None:
        if record.value == b"photo-0":
            if not others.is_set():
                raise TransientFault(Reason.FETCH_TIMEOUT, "slow")
            return
        done.add(record.value)
        if len(done) == 3 * Echo.window:
            others.set()

    await send(settings, [value for number in range(30) for value in (f"photo-{number}".encode(), b"", b"")])
    patient = settings.model_copy(update={"stage": StageSettings(retries=100, retry_delay_s=0.2)})
    async with running(Echo(work), patient):
        await asyncio.wait_for(others.wait(), 30)
        got = await read(patient, topics.COMPLETED, 90)
    assert Counter(r.value for r in got if r.value) == Counter(values_of(30))


async def test_a_record_is_given_up_at_its_deadline(settings: Settings) -> None:
    async def flaky(record: Received) -> None:
        raise TransientFault(Reason.FETCH_TIMEOUT, "slow")

    await send(settings, [b"photo"])
    hasty = settings.model_copy(
        update={"stage": StageSettings(retries=100, retry_delay_s=0.3, retry_deadline_s=1.0, drain_s=2)}
    )
    async with running(Echo(flaky), hasty):
        (got,) = await read(hasty, topics.COMPLETED, 1)
        (letter,) = await read(hasty, topics.DEAD_LETTERS, 1)
    assert got.value == b"failed:fetch_timeout"
    headers = dict(letter.headers)
    assert 2 <= int(headers[PREFIX + "attempts"]) <= 10
    assert headers[PREFIX + "first_at"] < headers[PREFIX + "last_at"]


async def test_a_lane_that_holds_too_much_is_given_no_more_until_it_has_room(settings: Settings) -> None:
    class Filling(Echo):
        taken = 0
        room = False

        def full(self, number: int) -> frozenset[str]:
            return frozenset() if self.room or self.taken < 5 else frozenset(self.topics)

        async def process(self, record: Received) -> list[Output]:
            self.taken += 1
            return await super().process(record)

    group = Filling()
    await send(settings, values_of(150))
    async with running(group, settings):
        await read(settings, topics.COMPLETED, 5)
        await asyncio.sleep(2)  # ten polls
        taken = group.taken
        group.room = True
        got = await read(settings, topics.COMPLETED, 150)
    assert taken <= 5 + PARTITIONS * group.window, "the lanes went on taking records"
    assert Counter(record.value for record in got) == Counter(values_of(150))


async def test_an_outage_is_waited_out_and_never_dead_lettered(settings: Settings) -> None:
    attempts = 0

    async def away(record: Received) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            raise OutageError("the store is away")

    await send(settings, [b"photo"])
    async with running(Echo(away), settings):
        got = await read(settings, topics.COMPLETED, 1)
    assert [r.value for r in got] == [b"photo"]
    assert attempts == 4


async def test_a_bug_on_one_record_does_not_stop_the_others(settings: Settings) -> None:
    async def buggy(record: Received) -> None:
        if record.value == b"photo-1":
            raise KeyError("oops")

    await send(settings, values_of(6))
    async with running(Echo(buggy), settings):
        got = await read(settings, topics.COMPLETED, 6)
    assert b"failed:internal_error" in {r.value for r in got}
    assert len(got) == 6


async def test_two_members_share_and_a_leaver_hands_over(settings: Settings) -> None:
    first, second = Echo(), Echo()
    await send(settings, values_of(20))
    async with running(first, settings):
        async with running(second, settings):
            await send(settings, [f"more-{n}".encode() for n in range(40)])
            await read(settings, topics.COMPLETED, 60)
        await send(settings, [b"last"])
        got = await read(settings, topics.COMPLETED, 61)
    assert second.opened, "the second member never had a lane"
    assert Counter(r.value for r in got) == Counter(
        [*values_of(20), *(f"more-{n}".encode() for n in range(40)), b"last"]
    )


async def test_what_a_rebalance_takes_away_is_sealed_where_all_of_it_is_committed(settings: Settings) -> None:
    """A group may keep the state of a lane that comes back, if nothing in it is unwritten."""
    begun, release = asyncio.Event(), asyncio.Event()

    async def hang(record: Received) -> None:
        if record.value == b"hangs":
            begun.set()
            await release.wait()

    first, second = Echo(hang), Echo(hang)
    async with running(first, settings):
        await send(settings, values_of(PARTITIONS))
        await read(settings, topics.COMPLETED, PARTITIONS)
        await send(settings, [b"hangs"], partition=0)
        await asyncio.wait_for(begun.wait(), 30)
        async with running(second, settings):
            async with asyncio.timeout(30):
                while not first.closed or not second.opened:  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0.05)
            assert sorted(first.closed) == list(range(PARTITIONS))
            assert sorted(first.kept) == sorted(first.sealed) == list(range(1, PARTITIONS))
            first.kept.clear()
            release.set()
            await read(settings, topics.COMPLETED, PARTITIONS + 1)
        async with asyncio.timeout(30):
            while len(first.opened) < 2 * PARTITIONS:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)
        first.kept.clear()
    assert first.kept == [], "kept where nobody will come back"


async def test_what_the_clock_has_begun_to_bring_about_is_not_sealed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "TICK_S", 0.1)

    class Slow(Echo):
        async def tick(self, number: int) -> list[Output]:
            self.ticks += 1
            await asyncio.sleep(3600 if number == 0 else 0)
            return []

    first, second = Slow(), Slow()
    async with running(first, settings):
        async with asyncio.timeout(30):
            while first.ticks < 2 * PARTITIONS:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)
        async with running(second, settings), asyncio.timeout(30):
            while not first.closed:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)
        assert 0 in first.closed
        assert sorted(first.kept) == list(range(1, PARTITIONS))


async def test_an_owner_that_died_is_known_and_one_that_left_is_not(settings: Settings) -> None:
    """By the metadata of the committed offset: what makes attempts survive the process that made them."""
    source = TopicPartition(settings.kafka.prefix + topics.IMAGES, 0)

    async def found() -> Custody:
        async with topics.admin(settings.kafka) as admin:
            offsets = await admin.list_consumer_group_offsets(settings.kafka.prefix + "echo")
        return Custody.read(offsets[source].metadata)

    for _ in range(2):
        async with running(Echo(), settings) as stage:
            await stage_open(stage, 0)
            assert await found() == Custody(is_open=True)
        assert await found() == Custody()
    for deaths in (0, 1, 2):
        stage = Stage(Echo(), settings)
        task = asyncio.create_task(stage.run())
        await stage_open(stage, 0)
        assert (await found()).crashes == deaths
        stage._stuck = True  # it ends as one that can't say goodbye
        stage.stop()
        await asyncio.wait_for(task, 30)


async def test_a_record_without_key_and_value_stops_nobody(settings: Settings) -> None:
    class Refusing(Echo):
        def failed(self, record: Received, fault: RecordFault) -> list[Output]:
            return []  # as a detector of an event that it can't read

    async def refuse(record: Received) -> None:
        if record.value is None:
            raise RecordFault(Reason.INVALID_EVENT, "a tombstone")

    async with AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers) as producer:
        await send_nothing(producer, settings.kafka.prefix + topics.IMAGES)
    await send(settings, [b"photo"], partition=0)
    async with running(Refusing(refuse), settings):
        (done,) = await read(settings, topics.COMPLETED, 1)
        (letter,) = await read(settings, topics.DEAD_LETTERS, 1)
    assert done.value == b"photo"
    assert (letter.key, letter.value) == (None, None)
    assert dict(letter.headers)[PREFIX + "reason"] == b"invalid_event"


async def test_a_record_that_was_alone_when_its_workers_died_is_given_up(settings: Settings) -> None:
    """The metadata says so; that real deaths lead to it is tested in tests/faults."""
    tried: Counter[bytes | None] = Counter()

    async def work(record: Received) -> None:
        tried[record.value] += 1

    await send(settings, values_of(9))
    source = TopicPartition(settings.kafka.prefix + topics.IMAGES, 0)
    culprit = Custody(is_open=True, crashes=4, since=0, alone=settings.stage.worker_crashes)
    await note(settings, source, culprit)
    async with running(Echo(work), settings):
        got = await read(settings, topics.COMPLETED, 9)
        (letter,) = await read(settings, topics.DEAD_LETTERS, 1)
    assert {r.value for r in got} == {*values_of(9)} - {b"photo-0"} | {b"failed:worker_crashed"}
    assert tried == Counter(value for value in values_of(9) if value != b"photo-0")
    headers = dict(letter.headers)
    assert (letter.value, headers[PREFIX + "attempts"]) == (b"photo-0", b"3")
    assert headers[PREFIX + "reason"] == b"worker_crashed"


async def test_a_death_counts_against_a_record_alone_only_while_nothing_else_is_in_work(settings: Settings) -> None:
    """While it waits for its turn to be alone, another lane's record may be what kills the process."""
    beside, go_on, tried = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(record: Received) -> None:
        if record.partition == 1:
            beside.set()
            await go_on.wait()
        if record.partition == 0:
            tried.set()
            await asyncio.Event().wait()

    source = TopicPartition(settings.kafka.prefix + topics.IMAGES, 0)
    producer = TransactionalProducer(settings.kafka, "onlooker", settings.kafka.prefix + "echo")
    await producer.start()

    async def begun() -> int:
        return Custody.read((await producer.committed([source]))[source].metadata).alone

    await note(settings, source, Custody(is_open=True, crashes=4))
    async with running(Echo(work), settings) as stage:
        await stage_open(stage, 1)
        await send(settings, [b"in work"], partition=1)
        await asyncio.wait_for(beside.wait(), 30)
        await stage_open(stage, 0)
        await send(settings, [b"suspected"], partition=0)
        async with asyncio.timeout(30):
            while stage._lanes[0].idle:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        assert (tried.is_set(), await begun()) == (False, 0)
        go_on.set()
        await asyncio.wait_for(tried.wait(), 30)
        assert await begun() == 1
    await producer.stop()


async def test_records_take_effect_in_their_order_also_where_some_are_tried_alone(settings: Settings) -> None:
    """The join writes down with each record what it made of it: a record that ran ahead would be written last."""
    order: list[int] = []

    async def work(record: Received) -> None:
        order.extend([record.offset] if record.partition == 0 else [])

    count = 3 * limit(Echo.window, settings.stage.batch)
    await send(settings, values_of(PARTITIONS * count))
    source = TopicPartition(settings.kafka.prefix + topics.IMAGES, 0)
    await note(settings, source, Custody(is_open=True, crashes=4))
    async with running(Echo(work), settings):
        await read(settings, topics.COMPLETED, PARTITIONS * count, within_s=120)
    assert order == list(range(count))


async def test_after_two_deaths_few_are_in_hand_until_the_lane_has_moved_on(settings: Settings) -> None:
    """So a lane whose workers are shot again and again gets on, and not at two transactions a record."""
    most = limit(Echo.window, settings.stage.batch)
    inside, seen = 0, [0, 0]

    async def work(record: Received) -> None:
        nonlocal inside
        if record.partition != 0:
            return
        inside += 1
        late = record.offset >= most
        seen[late] = max(seen[late], inside)
        await asyncio.sleep(0.02)
        inside -= 1

    count = 3 * most
    await send(settings, values_of(PARTITIONS * count))
    custody = Custody(is_open=True, crashes=1)
    await note(settings, TopicPartition(settings.kafka.prefix + topics.IMAGES, 0), custody)
    async with running(Echo(work), settings):
        await read(settings, topics.COMPLETED, PARTITIONS * count, within_s=120)
    few = Custody(crashes=2).together(most)
    assert 1 < few < Echo.window
    assert seen[0] <= few
    assert seen[1] > few


async def test_a_lane_commits_no_more_often_than_it_is_told_to(settings: Settings) -> None:
    """Once at once; then it waits, until it is full or is given up."""
    slow = settings.model_copy(update={"stage": settings.stage.model_copy(update={"commit_interval_ms": 60_000})})
    before_full = limit(Echo.window, settings.stage.batch) - Echo.window
    last = asyncio.Event()

    async def note(record: Received) -> None:
        if record.value == b"last":
            last.set()

    async with running(Echo(note), slow) as stage:
        await stage_open(stage, 0)
        await send(settings, [b"first"], partition=0)
        assert len(await read(settings, topics.COMPLETED, 1)) == 1
        await send(settings, values_of(before_full), partition=0)
        assert len(await read(settings, topics.COMPLETED, 1)) == 1
        await send(settings, [b"one more"], partition=0)
        got = await read(settings, topics.COMPLETED, 1 + before_full)
        await send(settings, [b"last"], partition=0)
        await asyncio.wait_for(last.wait(), 30)
    got = await read(settings, topics.COMPLETED, 3 + before_full)
    assert Counter(record.value for record in got) == Counter([b"first", *values_of(before_full), b"one more", b"last"])


async def test_a_new_owner_of_the_id_fences_the_old_one(settings: Settings) -> None:
    """Whoever starts a producer with a lane's transactional id owns the lane; the former owner must end."""
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(record: Received) -> None:
        begun.set()
        await release.wait()

    await send(settings, [b"photo"])
    stage = Stage(Echo(wait), settings)
    task = asyncio.create_task(stage.run())
    usurper = TransactionalProducer(settings.kafka, f"{settings.kafka.prefix}echo.images.0", "other")
    await asyncio.wait_for(begun.wait(), 30)
    await usurper.start()
    release.set()
    try:
        with pytest.raises(FatalError, match="owned by another"):
            await asyncio.wait_for(task, 30)
    finally:
        await usurper.stop()


async def test_nothing_of_an_unfinished_transaction_is_seen(settings: Settings) -> None:
    """A worker that dies before its commit leaves nothing; the next owner does the work."""
    dying = AIOKafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        transactional_id=f"{settings.kafka.prefix}echo.images.0",
    )
    await send(settings, [b"photo"])
    await dying.start()
    await dying.begin_transaction()
    await dying.send_and_wait(settings.kafka.prefix + topics.COMPLETED, b"half", key=b"photo")
    async with running(Echo(), settings):
        got = await read(settings, topics.COMPLETED, 1)
    assert [r.value for r in got] == [b"photo"]
    with pytest.raises(KafkaError):
        await dying.commit_transaction()
    await asyncio.wait_for(dying.stop(), 10)


async def test_records_that_come_before_the_gate_is_open_are_not_taken(settings: Settings) -> None:
    """aiokafka may hand out what it fetched before the former owner was fenced."""
    release = asyncio.Event()

    class Slow(Echo):
        async def open(self, number: int) -> None:
            await release.wait()
            await super().open(number)

    group = Slow()
    early = Received(topics.IMAGES, 0, 0, 0, b"early", b"early")
    source = TopicPartition(settings.kafka.prefix + topics.IMAGES, 0)
    async with running(group, settings) as stage:
        assert stage._lanes[0].accept(source, [early]) == 0
        release.set()
        await send(settings, [b"photo"])
        got = await read(settings, topics.COMPLETED, 1)
    assert [record.value for record in got] == [b"photo"]


async def test_an_output_that_no_topic_takes_ends_the_worker_and_moves_no_offset(settings: Settings) -> None:
    class Huge(Echo):
        async def process(self, record: Received) -> list[Output]:
            return [Output(topics.COMPLETED, record.key, b"x" * 2_000_000)]

    await send(settings, [b"photo"])
    with pytest.raises(FatalError, match=r"max\.message\.bytes"):
        await asyncio.wait_for(Stage(Huge(), settings).run(), 30)
    async with running(Echo(), settings):
        got = await read(settings, topics.COMPLETED, 1)
    assert [record.value for record in got] == [b"photo"]


async def test_an_output_that_the_broker_refuses_moves_no_offset_and_blames_no_record(settings: Settings) -> None:
    """However often its worker ends over it: somebody must mend the topic. The refusal comes after the send."""

    class Large(Echo):
        async def process(self, record: Received) -> list[Output]:
            return [Output(topics.COMPLETED, record.key, b"x" * 100_000)]

    small = {"max.message.bytes": "50000"}
    completed = ConfigResource(ConfigResourceType.TOPIC, settings.kafka.prefix + topics.COMPLETED, configs=small)
    async with topics.admin(settings.kafka) as admin:
        await admin.alter_configs([completed])
    await send(settings, [b"photo"])
    for _ in range(3):
        with pytest.raises(FatalError, match=r"max\.message\.bytes"):
            await asyncio.wait_for(Stage(Large(), settings).run(), 30)
    async with topics.admin(settings.kafka) as admin:
        offsets = await admin.list_consumer_group_offsets(settings.kafka.prefix + "echo")
    assert {Custody.read(found.metadata).crashes for found in offsets.values()} == {0}
    async with running(Echo(), settings):
        got = await read(settings, topics.COMPLETED, 1)
    assert [record.value for record in got] == [b"photo"]


async def test_a_lane_that_never_commits_ends_the_worker(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker answers, and yet no transaction comes through: not an outage to wait out."""

    class Astray(Echo):
        async def process(self, record: Received) -> list[Output]:
            return [Output("no-such-topic", record.key, record.value)]

    monkeypatch.setattr(lane, "LOST_IN_A_ROW", 2)
    brisk = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"request_timeout_ms": 1000})})
    await send(brisk, [b"photo"])
    with pytest.raises(FatalError, match="can't commit, 2 times in a row"):
        await asyncio.wait_for(Stage(Astray(), brisk).run(), 60)


async def test_what_a_lost_producer_did_not_commit_is_done_again(settings: Settings) -> None:
    """The lane goes back to the committed offset: aiokafka's own position is past the records in hand."""

    class AstrayOnce(Echo):
        lost = False

        async def process(self, record: Received) -> list[Output]:
            topic = topics.COMPLETED if self.lost else "no-such-topic"
            self.lost = True
            return [Output(topic, record.key, record.value)]

    brisk = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"request_timeout_ms": 1000})})
    await send(brisk, values_of(12))
    async with running(AstrayOnce(), brisk):
        got = await read(brisk, topics.COMPLETED, 12)
    assert Counter(record.value for record in got) == Counter(values_of(12))


async def test_a_lane_in_doubt_that_is_closed_does_not_take_the_group_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It committed, and was not told so; then, before it knows where the group stands, it has to say goodbye."""
    again = asyncio.Event()

    class Untold(TransactionalProducer):
        async def write(self, outputs: Sequence[Output], offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
            await super().write(outputs, offsets)
            if outputs:
                raise ProducerLostError("committed, and nobody said so")

    class SlowToRestore(Echo):
        async def open(self, number: int) -> None:
            if number == 0 and number in self.opened:
                again.set()
                await asyncio.Event().wait()
            await super().open(number)

    with monkeypatch.context() as patch:
        patch.setattr(lane, "TransactionalProducer", Untold)
        async with running(SlowToRestore(), settings) as stage:
            await stage_open(stage, 0)
            await send(settings, [b"photo"])
            await asyncio.wait_for(again.wait(), 30)
    async with topics.admin(settings.kafka) as admin:
        offsets = await admin.list_consumer_group_offsets(settings.kafka.prefix + "echo")
    assert offsets[TopicPartition(settings.kafka.prefix + topics.IMAGES, 0)].offset == 1


async def test_a_standstill_ends_the_worker(settings: Settings) -> None:
    """Work is in hand, no deadline of its own fires, nothing moves: the watchdog does."""

    async def for_ever(record: Received) -> None:
        await asyncio.Event().wait()

    impatient = settings.model_copy(update={"stage": StageSettings(watchdog_s=1.0, drain_s=0)})
    await send(impatient, [b"photo"])
    with pytest.raises(FatalError, match="no progress"):
        await asyncio.wait_for(Stage(Echo(for_ever), impatient).run(), 30)


async def test_an_idle_worker_is_not_taken_for_a_stuck_one(settings: Settings) -> None:
    impatient = settings.model_copy(update={"stage": StageSettings(watchdog_s=0.3)})
    async with running(Echo(), impatient):
        await asyncio.sleep(1.5)  # five times the watchdog's limit, with nothing to do
        await send(impatient, [b"photo"])
        assert len(await read(impatient, topics.COMPLETED, 1)) == 1
