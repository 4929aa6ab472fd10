"""Commands for those who use it: photos in, completed images out, an image's story."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.table import Column, Table
from rich.text import Text

from stream_worker.cli import console
from stream_worker.cli.console import Format, Outcome, printable
from stream_worker.errors import UserError
from stream_worker.events import LIVE, utc_now
from stream_worker.local_default import connected
from stream_worker.settings import Settings

app = typer.Typer()


@app.command(
    epilog="Example: [bold]stream-worker publish https://example.com/room.jpg --id room-1[/bold]\n\n"
    'A file has one event a line: [bold]{"url": "https://...", "image_id": "room-1", "metadata": {"order": 7}}[/bold]'
)
def publish(
    context: typer.Context,
    urls: Annotated[list[str] | None, typer.Argument(metavar="URL...", help="Photos to process.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Events as JSON lines; - is stdin.")] = None,
    image_id: Annotated[str | None, typer.Option("--id", help="image_id, for a single URL.")] = None,
    run: Annotated[str, typer.Option(help="Which processing this is.")] = "live",
    when_idle: Annotated[
        bool, typer.Option("--when-idle", help="Photos that may wait: each when the service has time for it.")
    ] = False,
) -> None:
    """Publish photos; prints a line for each as soon as the broker has it."""
    events = [{"url": url} for url in urls or []]
    if image_id is not None:
        if len(events) != 1:
            raise UserError("--id goes with exactly one URL")
        events[0]["image_id"] = image_id
    if file is not None:
        events += _events_in(file)
    if not events:
        raise UserError("nothing to publish: name URLs, or a file with --file")
    console.run(_publish(connected(context.obj), [{"run": run, **event} for event in events], when_idle))


_FIELDS = {"url", "image_id", "run", "classes", "deadline_s", "recompute", "metadata"}


def _events_in(file: Path) -> list[dict[str, Any]]:
    try:
        lines = (sys.stdin.buffer if str(file) == "-" else file.open("rb")).read().splitlines()
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from None
    events = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{file}, line {number}: not JSON: {error}") from None
        if not isinstance(event, dict) or "url" not in event or not set(event) <= _FIELDS:
            raise UserError(f"{file}, line {number}: want an object with a url, and of {', '.join(sorted(_FIELDS))}")
        events.append(event)
    return events


async def _publish(settings: Settings, events: list[dict[str, Any]], when_idle: bool) -> None:
    from stream_worker.pace import FOR_PHOTOS, Pace
    from stream_worker.publish import Published, Publisher

    def say(sent: Published) -> None:
        line = f"{sent.image_id}  run={sent.run}  partition={sent.partition}  offset={sent.offset}"
        console.out.print(printable(line), highlight=False, markup=False)

    async with Publisher(settings) as publisher:
        if not when_idle:
            async for sent in publisher.publish_many(events):
                say(sent)
            return
        async with Pace(settings.kafka, FOR_PHOTOS) as pace:
            for event in events:
                await pace.room()
                say(await publisher.publish(**event))


@app.command(epilog="Example: [bold]stream-worker watch --since 2h --status failed --format json[/bold]")
def watch(
    context: typer.Context,
    image: Annotated[str | None, typer.Option(help="Only this image; ends when it has completed.")] = None,
    run: Annotated[str | None, typer.Option(help="Only this run.", show_default="all")] = None,
    since: Annotated[
        str | None, typer.Option(help="Those of before, too: 2026-01-31T20:00 (UTC), or 2h (ago).")
    ] = None,
    status: Annotated[list[Outcome] | None, typer.Option(help="Only these outcomes; may be given again.")] = None,
    form: Annotated[Format, typer.Option("--format", help="A line an image, or whole events as JSON lines.")] = (
        Format.TABLE
    ),
) -> None:
    """Follow completed images as they come. With --image, those of before are looked through first."""
    from stream_worker.window import moment

    begin = None if since is None else moment(since, utc_now())
    if image is not None and begin is None:
        begin = datetime.fromtimestamp(0, UTC)
    with contextlib.suppress(KeyboardInterrupt):
        console.run(_watch(connected(context.obj), image, run, begin, set(status or Outcome), form))


async def _watch(
    settings: Settings,
    image: str | None,
    run: str | None,
    since: datetime | None,
    statuses: set[Outcome],
    form: Format,
) -> None:
    from stream_worker.contract import encode
    from stream_worker.results import Results

    async with Results(settings, since=since) as results:
        async for event in results:
            if image not in (None, event.image_id) or run not in (None, event.run):
                continue
            if Outcome(event.status) not in statuses:
                continue
            if form is Format.JSON:
                sys.stdout.write(encode(event).decode() + "\n")
                sys.stdout.flush()
            else:
                took = (event.completed_at - event.published_at).total_seconds()
                labels = ", ".join(one.label for one in event.objects) or "no objects"
                reason = f"  ({event.reason.code})" if event.reason else ""
                name = event.image_id if event.run == LIVE else f"{event.image_id} ({event.run})"
                line = f"{event.completed_at:%H:%M:%S}  {name}  {event.status}{reason}  {took:.2f} s  {labels}"
                console.out.print(printable(line), highlight=False, markup=False)
            if image is not None:
                return


@app.command(epilog="Example: [bold]stream-worker show room-1[/bold]")
def show(
    context: typer.Context,
    image_id: Annotated[str, typer.Argument(metavar="IMAGE_ID", help="The publisher's name of the photo.")],
    since: Annotated[
        str | None, typer.Option(help="Look no further back: 2026-01-31T20:00 (UTC), or 2h (ago).")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="A time line, or its parts as JSON lines.")] = Format.TABLE,
) -> None:
    """Tell an image's whole story: its events, who wrote them, seconds phase by phase, errors. Changes nothing."""
    from stream_worker.story import lines, story
    from stream_worker.window import moment

    begin = None if since is None else moment(since, utc_now())
    with console.progress() as tell:
        chapters = console.run(story(connected(context.obj), image_id, since=begin, progress=tell))
    if form is Format.JSON:
        for one in chapters:
            sys.stdout.write(orjson.dumps(one.plain()).decode() + "\n")
        return
    names = ("time", "s", "run", "what", "of", "worker", "detail", "seconds")
    folded = (Column(name, overflow="fold", justify="right" if name == "s" else "left") for name in names)
    table = Table(*folded, title=Text(f"image {printable(image_id)}"))
    for row in lines(chapters):
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.out.print(table)
