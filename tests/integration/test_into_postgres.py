"""ops/examples/into_postgres.py, as its first lines say to run it, on a real PostgreSQL.

No image is lost and none is there twice, whatever dies in between, comes twice or late, and whatever publishers write.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream_worker import topics
from stream_worker.contract import encode
from stream_worker.errors import Exit
from stream_worker.events import CompletedImageEvent, ObjectOutcome, object_id, utc_now
from stream_worker.lag import committed
from stream_worker.publish import Publisher
from stream_worker.results import Results
from stream_worker.settings import Kafka, Settings
from tests.photo_server import serving
from tests.servers.postgres import PostgresServer
from tests.staging import whole, with_stubs
from tests.stubs import photo

EXAMPLE = Path(__file__).parents[2] / "ops" / "examples" / "into_postgres.py"
GROUP = "into-postgres"
WITHIN_S = 60.0
IDLE_S = 3.0
"""A group gives up a member that has not polled for so long, in these tests."""

Rows = Callable[[str], list[Any]]

DIES_BEFORE_ITS_FIRST_COMMIT = f"""
import os, runpy, signal
from aiokafka import AIOKafkaConsumer
AIOKafkaConsumer.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""
"""The example, with the database's transaction behind it and Kafka's offsets not moved yet."""

IMPATIENT = f"""
import sys
sys.path.insert(0, {str(EXAMPLE.parent)!r})
import into_postgres
into_postgres.ATTEMPT_S = 2.0
sys.exit(into_postgres.main())
"""


class Example:
    """The example's process on one broker and database, started as often as a test wants, and what it logged."""

    def __init__(self, settings: Settings, variables: dict[str, str], folder: Path) -> None:
        self._env = {
            **os.environ,
            **variables,
            "STREAM_WORKER_KAFKA__BOOTSTRAP_SERVERS": str(settings.kafka.bootstrap_servers),
            "STREAM_WORKER_KAFKA__PREFIX": settings.kafka.prefix,
            "STREAM_WORKER_KAFKA__SESSION_TIMEOUT_MS": "4000",
            "STREAM_WORKER_KAFKA__MAX_POLL_INTERVAL_MS": str(round(1000 * IDLE_S)),
            "STREAM_WORKER_LOG__FORMAT": "json",
        }
        self._log = folder / "example.log"

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """It, until SIGTERM ends it cleanly; unless the test has killed it."""
        process = await self._start(*(arguments or (str(EXAMPLE),)))
        try:
            yield process
            if process.returncode is None:
                process.terminate()
            assert await asyncio.wait_for(process.wait(), 20) in (Exit.OK, -signal.SIGKILL), self._log.read_text()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def ends(self, *arguments: str) -> int:
        """It, until it ends by itself; how."""
        process = await self._start(*(arguments or (str(EXAMPLE),)))
        return await asyncio.wait_for(process.wait(), WITHIN_S)

    def logged(self) -> list[dict[str, Any]]:
        """The lines of the log: nothing else was written, no traceback."""
        return [orjson.loads(line) for line in self._log.read_bytes().splitlines()]

    def said(self, words: str) -> list[dict[str, Any]]:
        """The lines that begin so."""
        return [line for line in self.logged() if line["event"].startswith(words)]

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, *arguments, env=self._env, stdout=log, stderr=log
            )


@pytest.fixture
async def settings(kafka: str, prefix: str) -> Settings:
    made = Settings(kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=2))
    await topics.create(made.kafka)
    return made


@pytest.fixture
def example(settings: Settings, postgres: PostgresServer, database: str, tmp_path: Path) -> Example:
    return Example(settings, postgres.variables(database), tmp_path)


@pytest.fixture
def rows(postgres: PostgresServer, database: str) -> Rows:
    """What a query of the example's database gives; nothing before it has tables."""

    def query(text: str) -> list[Any]:
        with postgres.connect(database) as connection:
            try:
                return connection.execute(text).fetchall()
            except psycopg.errors.UndefinedTable:
                return []

    return query


def completed(image_id: str, revision: int = 1, *labels: str, after_s: float = 0) -> CompletedImageEvent:
    now = utc_now() + timedelta(seconds=after_s)
    return CompletedImageEvent(
        image_id=image_id,
        run="live",
        revision=revision,
        status="complete",
        objects=[
            ObjectOutcome(
                object_id=object_id(image_id, "live", index),
                index=index,
                status="missing",
                label=label,
                confidence=0.9,
                box=[0, 0, 1, 1],
            )
            for index, label in enumerate(labels)
        ],
        published_at=now,
        completed_at=now,
    )


async def write(settings: Settings, *images: CompletedImageEvent) -> None:
    """Put outcomes into the topic, by their image's partition, in this order."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers) as producer:
        for image in images:
            topic = settings.kafka.prefix + topics.COMPLETED
            await producer.send_and_wait(topic, encode(image), key=image.image_id.encode())


async def until(holds: Callable[[], object], within_s: float = WITHIN_S) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.02)


async def outcomes(settings: Settings, count: int) -> list[CompletedImageEvent]:
    """The first so many that were committed to the topic."""
    async with Results(settings, since=utc_now() - timedelta(days=1)) as results, asyncio.timeout(WITHIN_S):
        return [await anext(results) for _ in range(count)]


async def read_to_the_end(settings: Settings) -> None:
    """Return when the example's group has nothing left to read."""
    topic, kafka = settings.kafka.prefix + topics.COMPLETED, settings.kafka
    sources = [TopicPartition(topic, number) for number in range(2)]
    async with (
        asyncio.timeout(WITHIN_S),
        topics.admin(kafka) as admin,
        AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers) as consumer,
    ):
        while True:
            ends = await consumer.end_offsets(sources)
            done = await committed(admin, consumer, kafka.prefix + GROUP, sources)
            if all(done[source] >= ends[source] for source in sources):
                return
            await asyncio.sleep(0.05)


IMAGES = "SELECT image_id, run, revision, status FROM completed_images ORDER BY 1, 2, 3"
EVERYTHING = """
SELECT images, objects FROM (SELECT xmin, * FROM completed_images) images
LEFT JOIN (SELECT xmin, * FROM completed_objects) objects USING (image_id, run, revision)
ORDER BY image_id, run, revision, index
"""
"""Every row, with the transaction that wrote it: a row that was written anew differs."""


@pytest.mark.timeout(240)
async def test_killed_again_and_again_no_photo_of_the_service_is_lost_or_there_twice(
    kafka: str, prefix: str, postgres: PostgresServer, database: str, rows: Rows, tmp_path: Path
) -> None:
    lives, photos = 5, 15  # so many in each
    with serving(lambda path: (200, "image/png", photo(int(path[1:]), int(path[1:]) % 4))) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        example = Example(settings, postgres.variables(database), tmp_path)
        async with whole(settings), Publisher(settings) as publisher:
            for life in range(lives):
                async with example.running() as process:
                    there = len(rows(IMAGES))
                    for number in range(life * photos, (life + 1) * photos):
                        await publisher.publish(f"{base}/{number}", metadata={"number": number})
                    await until(lambda: len(rows(IMAGES)) > there)  # noqa: B023  # awaited within its turn
                    process.kill()
                    await process.wait()
            async with example.running():
                events = await outcomes(settings, lives * photos)
                await until(lambda: len(rows(IMAGES)) >= len(events))
                await until(lambda: len(example.said("ready")) == lives + 1)
    assert rows(IMAGES) == sorted((one.image_id, "live", 1, "complete") for one in events)
    found = rows(
        "SELECT image_id, index, object_id, label, confidence, box, width, height, depth, volume, unit, ply_key,"
        " ply_sha256, ply_size, geometry->'pose'->'scale' FROM latest_objects ORDER BY 1, 2"
    )
    assert found == sorted(
        (
            *(image.image_id, one.index, one.object_id, one.label, one.confidence, one.box),
            *(box.width, box.height, box.depth, one.geometry.volume, one.geometry.unit),
            *(one.ply.key, one.ply.sha256, one.ply.size, one.geometry.pose.scale),
        )
        for image in events
        for one in image.objects
        if one.geometry and one.ply and (box := one.geometry.oriented_box)
    )
    assert len(found) == sum(number % 4 for number in range(len(events)))
    metadata = rows(
        "SELECT (metadata->>'number')::int, published_at <= completed_at, photo_key, width FROM latest_images"
    )
    assert sorted(row[0] for row in metadata) == list(range(len(events)))
    assert all(in_time and key.startswith("images/") and width == 64 for _, in_time, key, width in metadata)


async def test_killed_between_the_databases_commit_and_kafkas_it_meets_its_own_rows(
    settings: Settings, example: Example, rows: Rows
) -> None:
    images = [completed(f"image-{number}", 1, "sofa", "lamp") for number in range(20)]
    await write(settings, *images)
    assert await example.ends("-c", DIES_BEFORE_ITS_FIRST_COMMIT) == -signal.SIGKILL
    before = rows(EVERYTHING)
    assert before, "it died too early"
    async with example.running():
        await read_to_the_end(settings)
    after = rows(EVERYTHING)
    assert [row for row in after if row in before] == before, "rows were written again"
    assert rows(IMAGES) == sorted((one.image_id, "live", 1, "complete") for one in images)
    assert len(after) == 2 * len(images)


async def test_killed_within_the_databases_transaction_nothing_is_half_there_or_lost(
    settings: Settings, example: Example, postgres: PostgresServer, database: str, rows: Rows
) -> None:
    async with example.running():
        await until(lambda: example.said("ready"))
    await write(settings, completed("room", 1, "sofa", "lamp"))
    with postgres.connect(database) as connection, connection.transaction():
        connection.execute("LOCK TABLE completed_objects IN SHARE MODE")  # it may write images, and waits with objects
        async with example.running() as process:
            await until(lambda: rows("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
            process.kill()
            await process.wait()
    await until(lambda: not rows("SELECT 1 FROM pg_stat_activity WHERE query ~ '^(INSERT|DELETE)'"))
    assert rows(IMAGES) == []
    async with example.running():
        await until(lambda: rows(IMAGES))
    assert rows("SELECT label FROM latest_objects ORDER BY index") == [("sofa",), ("lamp",)]


async def test_what_comes_twice_or_late_changes_nothing_and_the_newest_revision_is_seen(
    settings: Settings, example: Example, rows: Rows
) -> None:
    first, second = completed("room", 1, "sofa"), completed("room", 2, "sofa", "lamp")
    async with example.running():
        await write(settings, first, first)
        await read_to_the_end(settings)
        once = rows(EVERYTHING)
        assert len(once) == 1
        await write(settings, second)
        await read_to_the_end(settings)
        both = rows(EVERYTHING)
        await write(settings, second, first, first, second, completed("hall"))
        await read_to_the_end(settings)
    assert [row for row in rows(EVERYTHING) if "hall" not in row[0]] == both
    assert set(once) < set(both)
    assert rows("SELECT image_id, revision FROM latest_images ORDER BY 1") == [("hall", 1), ("room", 2)]
    assert rows("SELECT label FROM latest_objects ORDER BY index") == [("sofa",), ("lamp",)]
    assert rows("SELECT label FROM completed_objects WHERE revision = 1") == [("sofa",)]


async def test_of_two_outcomes_of_one_revision_the_later_one_stands_whichever_comes_last(
    settings: Settings, example: Example, rows: Rows
) -> None:
    """A photo that was published again, once the service had forgotten it."""
    one, other = completed("room", 1, "sofa", "lamp", "bed"), completed("room", 1, "chair", after_s=1)
    async with example.running():
        await write(settings, one, other, one)
        await read_to_the_end(settings)
    assert rows("SELECT label FROM completed_objects") == [("chair",)]


@pytest.mark.parametrize("away_s", [0, 2 * IDLE_S], ids=["shortly", "longer than Kafka is patient"])
async def test_a_database_that_is_away_is_waited_for(
    settings: Settings, example: Example, postgres: PostgresServer, rows: Rows, away_s: float
) -> None:
    """With images in hand: after a short while they are written; after a long one the group hands them out anew."""
    images = [completed(f"image-{number}", 1, "sofa") for number in range(30)]
    async with example.running():
        await write(settings, *images[:10])
        await until(lambda: len(rows(IMAGES)) == 10)
        postgres.stop()
        try:
            await write(settings, *images[10:20])
            await until(lambda: example.said("the database is away"))
            await asyncio.sleep(away_s)
            await write(settings, *images[20:])
        finally:
            postgres.start()
        await until(lambda: len(rows(IMAGES)) == 30)
        await read_to_the_end(settings)
    assert [line["event"] for line in example.logged() if line["logger"] == "__main__"] == [
        "ready",
        "the database is away: waiting for it",
        "the database is back",
    ]


async def test_a_database_that_stands_still_is_away_too(
    settings: Settings, example: Example, postgres: PostgresServer, database: str, rows: Rows
) -> None:
    """Its processes hold their connections and answer nothing, as in a host that is gone."""
    async with example.running("-c", IMPATIENT):
        await until(lambda: example.said("ready"))
        (theirs,) = rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        stopped = [*theirs, postgres.pid]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            await write(settings, completed("room", 1, "sofa"))
            await until(lambda: example.said("the database is away"))
            await asyncio.sleep(3)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        await until(lambda: rows(IMAGES))
        await read_to_the_end(settings)
    assert len(example.said("the database is away")) == 1


async def test_it_waits_for_a_database_that_is_not_there_yet_and_can_be_ended_meanwhile(
    settings: Settings, example: Example, postgres: PostgresServer, rows: Rows
) -> None:
    await write(settings, completed("room"))
    postgres.stop()
    try:
        for life in range(2):
            async with example.running():
                await until(lambda: len(example.said("the database is away")) > life)  # noqa: B023  # awaited within its turn
        async with example.running():
            await until(lambda: len(example.said("the database is away")) == 3)
            postgres.start()
            await until(lambda: rows(IMAGES))
    finally:
        postgres.start()


async def test_whatever_publishers_write_is_stored_and_nothing_gets_stuck(
    kafka: str, prefix: str, postgres: PostgresServer, database: str, rows: Rows, tmp_path: Path
) -> None:
    """PostgreSQL refuses NUL; different texts stay different all the same."""
    names = ["a\0", "a␀", "a␀0", "a\\u0000", "'); DROP TABLE completed_images; --", "%s %(image_id)s", "🛋" * 256]
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"\0": [deep]}
    hostile = {"\0": "a\0b", "␀0": 1e308, "'": [None, True, "\u2028\ufffe"], "deep": deep}
    with serving(lambda _: (200, "image/png", photo(7, 1))) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        example = Example(settings, postgres.variables(database), tmp_path)
        async with whole(settings), Publisher(settings) as publisher, example.running():
            for name in names:
                await publisher.publish(f"{base}/sofa", image_id=name, metadata=hostile)
            await until(lambda: len(rows(IMAGES)) == len(names))
            await publisher.publish(f"{base}/sofa", image_id="harmless")
            await until(lambda: ("harmless", "live", 1, "complete") in rows(IMAGES))
    stored = {row[0] for row in rows(IMAGES)}
    assert stored == {"a␀0", "a␀␀", "a␀␀0", *names[3:], "harmless"}
    ((metadata, ids),) = rows(
        "SELECT min(metadata::text)::jsonb, count(DISTINCT object_id)"
        " FROM latest_objects JOIN latest_images USING (image_id)"
    )
    assert metadata.pop("deep")
    assert metadata == {"␀0": "a␀0b", "␀␀0": 10**308, "'": hostile["'"]}
    assert ids == len(names) + 1


async def test_what_the_database_refuses_for_good_ends_it_with_one_line_and_is_not_skipped(
    settings: Settings, example: Example, postgres: PostgresServer, database: str, rows: Rows
) -> None:
    async with example.running():
        await until(lambda: example.said("ready"))
    with postgres.connect(database) as connection:
        connection.execute("ALTER TABLE completed_images ADD CONSTRAINT none CHECK (image_id <> 'room')")
        await write(settings, completed("room"))
        assert await example.ends() == Exit.FAILED
        (line,) = example.said("the database refuses")
        assert "CheckViolation" in line["error"]
        connection.execute("ALTER TABLE completed_images DROP CONSTRAINT none")
    async with example.running():
        await until(lambda: rows(IMAGES))


async def test_a_database_in_another_encoding_is_told_of_at_once(
    settings: Settings, postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    name = f"{database}-latin"
    with postgres.connect() as connection:
        connection.execute(f'CREATE DATABASE "{name}" ENCODING LATIN1 TEMPLATE template0')
    example = Example(settings, postgres.variables(name), tmp_path)
    assert await example.ends() == Exit.USAGE
    (line,) = example.logged()
    assert "UTF8" in line["error"]
