"""Writes completed images into PostgreSQL: a row an image, run and revision, and a row for each of its objects.

    export PGHOST=db PGDATABASE=rooms PGUSER=rooms PGPASSWORD=...    # the database, in UTF8, is named as for psql
    python into_postgres.py                                          # pip install 'psycopg[binary]' stream-worker
    psql -c "select image_id, label, width, height, depth, volume, unit, ply_key from latest_objects"

The broker is named as everywhere: STREAM_WORKER_KAFKA__BOOTSTRAP_SERVERS=kafka:9092, or stream-worker.toml.

Kafka's offsets move only after PostgreSQL has committed. What this process dies with comes again and meets the rows
that are there: every image is there once. Any number of processes share the work. A database that is away is waited
for; what it refuses for good (tables without the right to write them, say) ends the process with one line: nothing is
ever skipped.

The first argument is the name of the consumer group. A database that is new, or was set back to a backup, gets all that
the topic still has from a group with a new name: what is there already stays as it is.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.types.json import Jsonb

from stream_worker import telemetry
from stream_worker.errors import Exit, UserError
from stream_worker.events import CompletedImageEvent, ObjectOutcome
from stream_worker.results import Results
from stream_worker.settings import Settings, load

GROUP = "into-postgres"
ATTEMPT_S = 60.0
"""Connecting and one transaction, at most: a database that has stopped without a word is away too."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 10.0

AWAY = (psycopg.OperationalError, psycopg.InterfaceError, ReadOnlySqlTransaction, TimeoutError)
"""Nothing is wrong with what was to be written: lost connections, restarts, failovers, full disks, deadlocks."""

SCHEMA = """
SELECT pg_advisory_xact_lock(hashtext('into_postgres'));  -- processes that start together

CREATE TABLE IF NOT EXISTS completed_images (
    image_id       text             NOT NULL,
    run            text             NOT NULL,
    revision       bigint           NOT NULL,
    status         text             NOT NULL,  -- complete, partial or failed
    reason         text,                       -- why it failed: a reason code, and a sentence
    message        text,
    photo_key      text,                       -- in the object store, as ply_key below
    width          bigint,                     -- of the upright photo, pixels
    height         bigint,
    published_at   timestamptz      NOT NULL,
    completed_at   timestamptz      NOT NULL,
    metadata       jsonb,                      -- the publisher's own
    PRIMARY KEY (image_id, run, revision)
);

CREATE TABLE IF NOT EXISTS completed_objects (
    image_id       text             NOT NULL,
    run            text             NOT NULL,
    revision       bigint           NOT NULL,
    index          bigint           NOT NULL,  -- its place in the photo, most confident first
    object_id      text             NOT NULL,
    status         text             NOT NULL,  -- reconstructed, failed or missing
    reason         text,
    message        text,
    label          text             NOT NULL,
    confidence     double precision NOT NULL,
    box            double precision[4] NOT NULL,  -- x0, y0, x1, y1 in pixels of the upright photo
    width          double precision,           -- of the oriented box, in unit
    height         double precision,
    depth          double precision,
    volume         double precision,           -- in unit^3
    unit           text,
    geometry       jsonb,                      -- all of it: the box's place and rotation, the pose, the frame
    ply_key        text,
    ply_sha256     text,
    ply_size       bigint,                     -- bytes
    model          text,
    PRIMARY KEY (image_id, run, revision, index),
    FOREIGN KEY (image_id, run, revision) REFERENCES completed_images ON DELETE CASCADE
);

CREATE OR REPLACE VIEW latest_images AS
    SELECT DISTINCT ON (image_id, run) * FROM completed_images ORDER BY image_id, run, revision DESC;

CREATE OR REPLACE VIEW latest_objects AS
    SELECT completed_objects.* FROM completed_objects JOIN latest_images USING (image_id, run, revision);
"""

# A record that comes again changes nothing. Only an image that was published again after the service had forgotten it
# has a second outcome of the same revision: the later one stands, whichever comes last.
UPSERT_IMAGE = """
INSERT INTO completed_images (
    image_id, run, revision, status, reason, message, photo_key, width, height, published_at, completed_at, metadata
) VALUES (
    %(image_id)s, %(run)s, %(revision)s, %(status)s, %(reason)s, %(message)s, %(photo_key)s, %(width)s, %(height)s,
    %(published_at)s, %(completed_at)s, %(metadata)s
)
ON CONFLICT (image_id, run, revision) DO UPDATE SET
    status = EXCLUDED.status, reason = EXCLUDED.reason, message = EXCLUDED.message, photo_key = EXCLUDED.photo_key,
    width = EXCLUDED.width, height = EXCLUDED.height, published_at = EXCLUDED.published_at,
    completed_at = EXCLUDED.completed_at, metadata = EXCLUDED.metadata
WHERE completed_images.completed_at < EXCLUDED.completed_at
"""

DELETE_OBJECTS = """
DELETE FROM completed_objects WHERE image_id = %(image_id)s AND run = %(run)s AND revision = %(revision)s
"""

INSERT_OBJECT = """
INSERT INTO completed_objects (
    image_id, run, revision, index, object_id, status, reason, message, label, confidence, box, width, height, depth,
    volume, unit, geometry, ply_key, ply_sha256, ply_size, model
) VALUES (
    %(image_id)s, %(run)s, %(revision)s, %(index)s, %(object_id)s, %(status)s, %(reason)s, %(message)s, %(label)s,
    %(confidence)s, %(box)s, %(width)s, %(height)s, %(depth)s, %(volume)s, %(unit)s, %(geometry)s, %(ply_key)s,
    %(ply_sha256)s, %(ply_size)s, %(model)s
)
"""

log = telemetry.get(__name__)


class Database:
    """One connection to the database of the PG* variables, made again where it is lost. An async context manager."""

    def __init__(self) -> None:
        self._connection: psycopg.AsyncConnection | None = None

    async def __aenter__(self) -> Self:
        """Wait for the database, and create the tables where they are missing."""
        await self.write([])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def write(self, images: Sequence[CompletedImageEvent]) -> None:
        """Returns when all of them are committed, in one transaction, however long the database is away.

        Raises psycopg.Error where it refuses them for good.
        """
        away_since, wait_s = None, FIRST_WAIT_S
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_S):
                    await self._write(images)
                break
            except AWAY as error:
                await self._close()
                if away_since is None:
                    away_since = time.monotonic()
                    log.warning("the database is away: waiting for it", error=one_line(error))
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        if away_since is not None:
            log.info("the database is back", after_s=round(time.monotonic() - away_since, 1))

    async def _write(self, images: Sequence[CompletedImageEvent]) -> None:
        if self._connection is None:
            self._connection = await connect()
        async with self._connection.transaction(), self._connection.cursor() as cursor:
            for image in images:
                row = image_row(image)
                await cursor.execute(UPSERT_IMAGE, row)
                if cursor.rowcount:  # 0: it is there already, and so are its objects
                    await cursor.execute(DELETE_OBJECTS, row)
                    await cursor.executemany(INSERT_OBJECT, [object_row(image, one) for one in image.objects])

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


async def connect() -> psycopg.AsyncConnection:
    """A connection to a database that has the tables."""
    connection = await psycopg.AsyncConnection.connect(client_encoding="utf8", autocommit=True)
    try:
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            raise UserError(f"the database must be in UTF8, not in {encoding}: createdb --encoding UTF8")
        async with connection.transaction():
            await connection.execute(SCHEMA)
    except BaseException:
        await connection.close()
        raise
    return connection


def image_row(image: CompletedImageEvent) -> dict[str, Any]:
    """What `completed_images` holds of an image."""
    photo, reason = image.image, image.reason
    row = {
        "image_id": image.image_id,
        "run": image.run,
        "revision": image.revision,
        "status": image.status,
        "reason": reason and reason.code,
        "message": reason and reason.message,
        "photo_key": photo and photo.key,
        "width": photo and photo.width,
        "height": photo and photo.height,
        "published_at": image.published_at,
        "completed_at": image.completed_at,
    }
    return {**storable(row), "metadata": None if image.metadata is None else Jsonb(storable(image.metadata))}


def object_row(image: CompletedImageEvent, one: ObjectOutcome) -> dict[str, Any]:
    """What `completed_objects` holds of one of its objects."""
    geometry, ply, reason = one.geometry, one.ply, one.reason
    box = geometry and geometry.oriented_box
    row = {
        "image_id": image.image_id,
        "run": image.run,
        "revision": image.revision,
        "index": one.index,
        "object_id": one.object_id,
        "status": one.status,
        "reason": reason and reason.code,
        "message": reason and reason.message,
        "label": one.label,
        "confidence": one.confidence,
        "box": one.box,
        "width": box and box.width,
        "height": box and box.height,
        "depth": box and box.depth,
        "volume": geometry and geometry.volume,
        "unit": geometry and geometry.unit,
        "ply_key": ply and ply.key,
        "ply_sha256": ply and ply.sha256,
        "ply_size": ply and ply.size,
        "model": one.model and one.model.name,
    }
    return {**storable(row), "geometry": geometry and Jsonb(storable(geometry.model_dump(mode="json")))}


def storable(value: Any) -> Any:
    """The value with ␀0 for every NUL in its texts, and ␀␀ for every ␀, so that different texts stay different.

    Publishers may send NUL, in an image_id and in metadata, and PostgreSQL's text and jsonb refuse it.
    """
    match value:
        case str():
            return value.replace("␀", "␀␀").replace("\0", "␀0")
        case list():
            return [storable(one) for one in value]
        case dict():
            return {storable(name): storable(one) for name, one in value.items()}
    return value


def one_line(error: BaseException) -> str:
    """An error, as a line of the log has it."""
    return " ".join(f"{type(error).__name__}: {error}".split())


async def copy(settings: Settings, group: str) -> None:
    """Write what comes, until the task is cancelled: what is in hand then comes again at the next start."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with Database() as database, Results(settings, group=settings.kafka.prefix + group) as results:
        log.info("ready", group=group)
        async for images in results.batches():
            await database.write(images)


def main(group: str = GROUP) -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    try:
        settings = load()
        telemetry.configure(settings.log)
        asyncio.run(copy(settings, group))
    except asyncio.CancelledError:
        return Exit.OK
    except UserError as error:
        log.error("can't start", error=str(error))
        return error.exit_code
    except psycopg.Error as error:
        log.error("the database refuses what is written", error=one_line(error))
        return Exit.FAILED
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
