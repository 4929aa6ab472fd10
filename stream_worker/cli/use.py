"""Commands for those who use it: photos in, completed images out, an image's story."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.table import Column, Table
from rich.text import Text

from stream_worker.cli import console
from stream_worker.cli.console import Format, printable
from stream_worker.errors import Reason, UserError
from stream_worker.events import utc_now
from stream_worker.local_default import connected
from stream_worker.settings import Settings

if TYPE_CHECKING:
    from stream_worker.replay import Selection

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
    console.run(_publish(connected(context.obj), [{"run": run, **event} for event in events]))


_FIELDS = {"url", "image_id", "run", "classes", "deadline_s", "metadata"}


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


async def _publish(settings: Settings, events: list[dict[str, Any]]) -> None:
    from stream_worker.publish import Publisher

    async with Publisher(settings) as publisher:
        async for sent in publisher.publish_many(events):
            console.out.print(
                f"{sent.image_id}  run={sent.run}  partition={sent.partition}  offset={sent.offset}", highlight=False
            )


class Outcome(StrEnum):
    """How an image can end."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


@app.command(epilog="Example: [bold]stream-worker watch --since 2h --status failed --format json[/bold]")
def watch(
    context: typer.Context,
    image: Annotated[str | None, typer.Option(help="Only this image; ends when it has completed.")] = None,
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
        console.run(_watch(connected(context.obj), image, begin, set(status or Outcome), form))


async def _watch(
    settings: Settings, image: str | None, since: datetime | None, statuses: set[Outcome], form: Format
) -> None:
    from stream_worker.contract import encode
    from stream_worker.results import Results

    async with Results(settings, since=since) as results:
        async for event in results:
            if image not in (None, event.image_id) or Outcome(event.status) not in statuses:
                continue
            if form is Format.JSON:
                sys.stdout.write(encode(event).decode() + "\n")
                sys.stdout.flush()
            else:
                took = (event.completed_at - event.published_at).total_seconds()
                labels = ", ".join(one.label for one in event.objects) or "no objects"
                reason = f"  ({event.reason.code})" if event.reason else ""
                line = (
                    f"{event.completed_at:%H:%M:%S}  {event.image_id}  {event.status}{reason}  {took:.2f} s  {labels}"
                )
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
    from stream_worker.audit.table import progress
    from stream_worker.story import lines, story
    from stream_worker.window import moment

    begin = None if since is None else moment(since, utc_now())
    with progress(console.err) as tell:
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


@app.command(
    epilog="Example: [bold]stream-worker replay --from 1d --status failed --run mended --yes[/bold]\n\n"
    "Stopped, it goes on where it was when it is given the same run again."
)
def replay(
    context: typer.Context,
    run: Annotated[str, typer.Option(help="The replay's own run: its outcomes have it.")],
    of: Annotated[str, typer.Option(help="The run that is done again.")] = "live",
    since: Annotated[
        str | None, typer.Option("--from", help="Published from then on: 2026-01-31T20:00 (UTC), or 2h (ago).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Published before then.")] = None,
    ids: Annotated[Path | None, typer.Option(help="A file of image ids, one a line; - is stdin.")] = None,
    status: Annotated[list[Outcome] | None, typer.Option(help="Only these outcomes; may be given again.")] = None,
    reasons: Annotated[
        list[Reason] | None, typer.Option("--reason", help="Only where image or object have these reasons.")
    ] = None,
    labels: Annotated[list[str] | None, typer.Option("--class", help="Only where such an object was found.")] = None,
    ahead: Annotated[int, typer.Option(min=1, help="Photos on their way at a time: live ones wait behind these.")] = 32,
    per_second: Annotated[float | None, typer.Option("--rate", min=0.001, help="Photos a second, at most.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it, only what would be done is shown.")] = False,
) -> None:
    """Do photos again under a run of their own; the original events stay as they are. By default it only says what."""
    from stream_worker.replay import Selection
    from stream_worker.window import window

    selection = Selection(
        run=of,
        window=window(since, until, utc_now()),
        ids=None if ids is None else _ids_in(ids),
        statuses=frozenset(one.value for one in status or ()),
        reasons=frozenset(one.value for one in reasons or ()),
        labels=frozenset(labels or ()),
    )
    console.run(_replay(connected(context.obj), selection, run, ahead, per_second, yes))


def _ids_in(file: Path) -> frozenset[str]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read: {error}") from None
    return frozenset(line for line in text.splitlines() if line)


async def _replay(
    settings: Settings, selection: Selection, run: str, ahead: int, per_second: float | None, yes: bool
) -> None:
    from stream_worker.audit.table import progress
    from stream_worker.replay import plan
    from stream_worker.replay import replay as do

    with progress(console.err) as tell:
        planned = await plan(settings, selection, run, tell)
    parts = [f"{len(planned.photos)} photos to do again as run {run}"]
    if planned.sent:
        parts.append(f"{planned.sent} were sent before")
    if planned.unreadable:
        parts.append(f"{planned.unreadable} events can't be read")
    if planned.model_s is not None:
        parts.append(f"the models took {planned.model_s:.1f} s for them before")
    console.out.print(printable("; ".join(parts)), highlight=False, markup=False)
    if not yes:
        console.out.print("To do it: --yes", highlight=False)
        return
    with progress(console.err) as tell:
        done = await do(settings, planned, ahead=ahead, per_second=per_second, progress=tell)
    statuses = ", ".join(f"{count} {status}" for status, count in done.statuses.most_common()) or "nothing to do"
    console.out.print(f"{statuses}; {done.reused} of {done.objects} objects cost no GPU time", highlight=False)
