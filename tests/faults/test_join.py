"""The aggregator's state under faults: killed while it restores, and a changelog that can't be read."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from stream_worker import contract, topics
from stream_worker.aggregator import changelog
from stream_worker.aggregator.join import Join
from stream_worker.errors import Exit
from stream_worker.events import DetectionEvent, ReconstructionEvent, utc_now
from stream_worker.settings import Kafka, Log, Settings, environment
from stream_worker.settings import Stage as StageSettings
from stream_worker.supervisor import Supervisor, Worker
from tests.integration.test_pipeline import Reader
from tests.unit.aggregator.examples import manifest, result

SEED = 20261124
PARTITIONS = 2
MANY, FEW = 500, 50
"""Images in a lane."""
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
        ),
        stage=StageSettings(drain_s=2),
        log=Log(format="json"),
    )
    await topics.create(made.kafka)
    return made


def image_ids(lane: int, count: int) -> list[str]:
    return [f"lane-{lane}-photo-{number}" for number in range(count)]


def in_time(event: Event) -> Event:
    """The event with a deadline that plays no part here."""
    return event.model_copy(update={"deadline_at": utc_now() + timedelta(seconds=900)})


@asynccontextmanager
async def producing(settings: Settings, transactional_id: str | None = None) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        transactional_id=transactional_id,
        transaction_timeout_ms=300_000,
    )
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def half_joined(settings: Settings, lane: int, count: int) -> None:
    """Images of two objects: manifest and first result are in the changelog, the second result waits to be read."""
    join, now = Join(timedelta(hours=1), 2**30), utc_now()
    to_changelog = settings.kafka.prefix + topics.CHANGELOG
    to_reconstructions = settings.kafka.prefix + topics.RECONSTRUCTIONS
    async with producing(settings) as producer:
        for image_id in image_ids(lane, count):
            said, first, second = (
                in_time(e) for e in (manifest(2, image_id), result(0, image_id), result(1, image_id))
            )
            assert isinstance(said, DetectionEvent)
            assert isinstance(first, ReconstructionEvent)
            for change in [*join.manifest(said, now).changes, *join.result(first, now).changes]:
                key, value = changelog.record(change)
                await producer.send(to_changelog, value, key, partition=lane)
            await producer.send(to_reconstructions, contract.encode(second), image_id.encode(), partition=lane)


async def require_each_once(reader: Reader, wanted: Sequence[str]) -> None:
    await reader.until(len(wanted), 180)
    await reader.settled(3)
    assert Counter((event.image_id, event.revision) for event in reader.events) == Counter((name, 1) for name in wanted)
    assert {event.status for event in reader.events} == {"complete"}


def said(log: Path, word: str) -> int:
    """How often the worker has logged this."""
    return log.read_text().count(f'"event":"{word}"') if log.exists() else 0


async def until_said(log: Path, word: str, count: int) -> None:
    async with asyncio.timeout(150):
        while said(log, word) < count:  # noqa: ASYNC110  # another process writes the file
            await asyncio.sleep(0.02)


@pytest.mark.timeout(500)
async def test_an_aggregator_that_is_killed_while_it_restores(settings: Settings, tmp_path: Path) -> None:
    """Whoever reads the changelog has to wait in its middle, at an open transaction: no restore can end meanwhile."""
    numbers = random.Random(SEED)
    lanes = range(PARTITIONS)
    to_changelog = settings.kafka.prefix + topics.CHANGELOG
    for lane in lanes:
        await half_joined(settings, lane, MANY)
    async with producing(settings, f"{settings.kafka.prefix}holder") as holder, Reader(settings) as reader:
        await holder.begin_transaction()
        for lane in lanes:
            await holder.send_and_wait(to_changelog, b"never committed", b"never", partition=lane)
        first = Worker("first", ["aggregate", "--name", "first"])
        async with Supervisor(settings, [first], tmp_path):
            for kill in (1, 2, 3):
                await until_said(tmp_path / "first.log", "restoring", kill * PARTITIONS)
                await asyncio.sleep(numbers.uniform(0, 1))  # nothing of it yet, or all up to the transaction
                assert not said(tmp_path / "first.log", "restored"), "the kill came too late to prove anything"
                os.kill(first.pid or 0, signal.SIGKILL)
        await holder.abort_transaction()
        async with Supervisor(settings, [Worker("second", ["aggregate", "--name", "second"])], tmp_path):
            await require_each_once(reader, [name for lane in lanes for name in image_ids(lane, MANY)])
        assert said(tmp_path / "second.log", "restored") == PARTITIONS


@contextmanager
def aggregator(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker without a supervisor that would start it again."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_worker", "aggregate", "--name", "alone"],
            env={**os.environ, **environment(settings)},
            stderr=stderr,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def committed(settings: Settings, lane: int) -> dict[str, int]:
    """The offsets that the group has committed for this lane, by topic."""
    async with topics.admin(settings.kafka) as admin:
        offsets = await admin.list_consumer_group_offsets(settings.kafka.prefix + "aggregator")
    return {at.topic: there.offset for at, there in offsets.items() if at.partition == lane and there.offset >= 0}


@pytest.mark.timeout(500)
async def test_a_changelog_with_a_corrupt_record_halts_the_worker(settings: Settings, tmp_path: Path) -> None:
    """It never goes on without the record. The worker's other lanes end with it, and do again what was not committed.

    Until somebody mends the changelog, whoever takes the lane over ends the same way, and the other lanes get on only
    in between: a state that can't be read is worth waking somebody for.
    """
    bad, good = 0, 1
    for lane in (bad, good):
        await half_joined(settings, lane, FEW)
    to_changelog = settings.kafka.prefix + topics.CHANGELOG
    key = changelog.key_of("damaged", "live")
    async with producing(settings) as producer, Reader(settings) as reader:
        corrupt = await producer.send_and_wait(to_changelog, b'{"version":1,"image_id":"dam', key, partition=bad)
        for attempt in (1, 2):
            log = tmp_path / f"attempt-{attempt}.log"
            with aggregator(settings, log) as process:
                assert await asyncio.to_thread(process.wait, 150) == Exit.FATAL
            assert f"corrupt join state at {to_changelog}-{bad} offset {corrupt.offset}" in log.read_text()
            assert not await committed(settings, bad)
        await reader.settled(1)
        assert not {event.image_id for event in reader.events} & set(image_ids(bad, FEW))
        await producer.send_and_wait(to_changelog, None, key, partition=bad)  # the way out, for who knows what it was
        async with Supervisor(settings, [Worker("alone", ["aggregate", "--name", "alone"])], tmp_path):
            await require_each_once(reader, [*image_ids(bad, FEW), *image_ids(good, FEW)])
