"""One demo from photos to report, on the service as it is in production, all of it on this machine.

photos --HTTP--> [detector] --> [2 reconstructors] --> [aggregator] --> demo-out/
   |                                                         |
   +-- published as any app would          followed as any app would
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from stream_worker import telemetry
from stream_worker.demo import photos, report, results
from stream_worker.demo.folder import OutFolder, taken
from stream_worker.demo.follow import Follower
from stream_worker.demo.progress import StageProgress
from stream_worker.demo.record import RunRecord
from stream_worker.demo.table import faults, printable, seconds, table
from stream_worker.errors import Exit, OutageError, RecordFault, UserError
from stream_worker.publish import Publisher
from stream_worker.settings import Settings, Up
from stream_worker.store import open_store
from stream_worker.up import Running, running

STALL_S = 300.0
"""Without any news for so long, the demo gives up."""

MOST_NAMED = 10

WIDTH = 100
"""Columns of the table where no terminal says how wide it is."""


def demo(settings: Settings, images: Path | None, out: Path, console: Console, stall_s: float = STALL_S) -> int:
    """Process the photos of `images` (rendered rooms if None) and write the results to `out`; the exit code.

    0 only if every image completed as `complete`. Raises UserError for a mistake that the user can mend.
    """
    try:
        return asyncio.run(_demo(settings, images, out, console, stall_s))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


async def _demo(settings: Settings, images: Path | None, out: Path, console: Console, stall_s: float) -> int:
    task = asyncio.current_task()
    assert task is not None
    # As Ctrl-C: everything that was started is stopped on the way out.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    # The workers' own logs are in files; of ours only what is wrong belongs between the lines of the demo.
    telemetry.configure(settings.log.model_copy(update={"level": "warning"}))
    say = _narrator(console)
    with taken(out) as folder, photos.listen() as sock:
        own = _settings(settings, folder, sock.getsockname()[1])
        # Photos are rendered while Kafka starts; a folder that can't be read is told of before.
        given = None if images is None else photos.photos_in(images)
        rendering = asyncio.create_task(_rendered(given, folder, say))
        async with running(own, on_progress=say, log_dir=folder.logs) as service:
            record = RunRecord(f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}", await rendering)
            async with photos.served(record.photos, sock) as urls:
                say(f"publishing {len(urls)} photos")
                await _process(service, record, urls, console, stall_s)
            say("stopping the service, writing the report")
            writing = asyncio.create_task(_write(own, record, folder))
        try:
            await writing
        except (RecordFault, OutageError) as error:
            raise UserError(f"a result can't be read from the store: {error}", Exit.STORE) from None
        except OSError as error:
            raise UserError(f"can't write to {out}: {error.strerror or error}") from None
    return _conclude(record, folder, out, console, stall_s)


def _settings(settings: Settings, folder: OutFolder, port: int) -> Settings:
    """The user's settings, with data of the demo's own, and the photos' server as the one address allowed."""
    return settings.model_copy(
        update={
            "local": settings.local.model_copy(update={"data_dir": folder.data}),
            "images": settings.images.model_copy(update={"allow_networks": [f"{photos.HOST}/32:{port}"]}),
            "up": Up(detectors=1, reconstructors=2, aggregators=1),
        }
    )


async def _rendered(given: dict[str, Path] | None, folder: OutFolder, say: Callable[[str], None]) -> dict[str, Path]:
    if given is not None:
        return given
    say(f"rendering {len(photos.ROOMS)} photos")
    return await asyncio.to_thread(photos.render_rooms, folder.photos)


async def _process(service: Running, record: RunRecord, urls: dict[str, str], console: Console, stall_s: float) -> None:
    """Publish every photo and follow the run until all have completed, or nothing more happens."""
    kafka = service.settings.kafka
    async with Follower(kafka, record) as follower, Publisher(service.settings) as publisher:

        async def publish() -> None:
            for image_id, url in urls.items():
                await publisher.publish(url, image_id=image_id, run=record.run)

        with StageProgress(console, record) as progress:
            work = [
                asyncio.create_task(publish()),
                asyncio.create_task(follower.until_whole(progress.update, stall_s)),
            ]
            broken = asyncio.create_task(service.supervisor.failed())
            try:
                pending = set(work)
                while pending:
                    done, pending = await asyncio.wait({*pending, broken}, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                    pending.discard(broken)
            finally:
                for task in (*work, broken):
                    task.cancel()
                await asyncio.gather(*work, broken, return_exceptions=True)


async def _write(settings: Settings, record: RunRecord, folder: OutFolder) -> None:
    async with open_store(settings) as store:
        await results.save_plys(folder.plys, record, store.get)
    results.save_completed(folder.completed, record)
    await asyncio.to_thread(report.write, folder.root, record)


def _conclude(record: RunRecord, folder: OutFolder, out: Path, console: Console, stall_s: float) -> int:
    console.print(table(record), width=None if console.is_terminal else max(console.width, WIDTH))
    for line in faults(record)[:MOST_NAMED]:
        console.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    complete = sum(event.status == "complete" for event in record.completed.values())
    console.print(
        f"{complete} of {len(record.photos)} photos complete, {len(record.plys)} objects in 3D. Look at "
        f"{out / folder.report.name}; the PLY files are in {out / folder.plys.name}/.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if record.waiting:
        named = ", ".join(printable(image_id) for image_id in record.waiting[:MOST_NAMED])
        more = f" and {len(record.waiting) - MOST_NAMED} more" if len(record.waiting) > MOST_NAMED else ""
        console.print(
            f"No outcome, and no news for {seconds(stall_s)}: {named}{more}. See {out / folder.logs.name}/.",
            style="red",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return Exit.OK if record.succeeded else Exit.FAILED


def _narrator(console: Console) -> Callable[[str], None]:
    """Prints what happens, with the seconds since the start."""
    started = time.monotonic()

    def say(line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            console.print(
                f"[{time.monotonic() - started:5.1f} s] {printable(line)}",
                style="dim",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    return say
