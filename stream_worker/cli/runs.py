"""Commands for doing photos again, and for looking at what that has changed."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.table import Column, Table
from rich.text import Text

from stream_worker.cli import console
from stream_worker.cli.console import Format, Outcome, printable
from stream_worker.errors import Reason, UserError
from stream_worker.events import utc_now
from stream_worker.local_default import connected
from stream_worker.replay.selection import Offsets, Selection, Source

if TYPE_CHECKING:
    from stream_worker.comparison import Comparison
    from stream_worker.replay.plan import Plan

app = typer.Typer()


@app.command(
    epilog="Example: [bold]stream-worker replay --from 1d --status failed --run mended --yes[/bold]\n\n"
    "Stopped, it goes on where it was when it is given the same run again."
)
def replay(
    context: typer.Context,
    run: Annotated[str, typer.Option(help="The replay's own run: its outcomes have it.")],
    source: Annotated[
        Source, typer.Option("--source", help="images: fetch and detect again; objects: only reconstruct again.")
    ] = Source.IMAGES,
    of: Annotated[str, typer.Option(help="The run that is done again.")] = "live",
    since: Annotated[
        str | None,
        typer.Option("--from", "--since", help="Published from then on: 2026-01-31T20:00 (UTC), or 2h (ago)."),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", "--until", help="Published before then.")] = None,
    offsets: Annotated[
        list[str] | None,
        typer.Option(help="partition:from-to of topic images (of detections, from objects); may be given again."),
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="A file of image ids, one a line; - is stdin.")] = None,
    status: Annotated[list[Outcome] | None, typer.Option(help="Only these outcomes; may be given again.")] = None,
    reasons: Annotated[
        list[Reason] | None, typer.Option("--reason", help="Only where image or object have these reasons.")
    ] = None,
    labels: Annotated[list[str] | None, typer.Option("--class", help="Only where such an object was found.")] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Spend GPU time also where nothing that decides a result has changed.")
    ] = False,
    ahead: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images on their way at a time, live ones or not.",
            show_default="as many as the service has time for beside live ones",
        ),
    ] = None,
    per_second: Annotated[float | None, typer.Option("--rate", min=0.001, help="Images a second, at most.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it, only what would be done is shown.")] = False,
) -> None:
    """Do photos again under a run of their own; the original events stay as they are. By default it only says what."""
    from stream_worker.replay.plan import plan
    from stream_worker.replay.send import replay as send
    from stream_worker.window import window

    settings = connected(context.obj)
    selection = Selection(
        source=source,
        run=of,
        window=window(since, until, utc_now()),
        offsets=[Offsets.parse(one) for one in offsets or ()],
        ids=None if ids is None else _ids_in(ids),
        statuses=frozenset(one.value for one in status or ()),
        reasons=frozenset(one.value for one in reasons or ()),
        labels=frozenset(labels or ()),
    )
    with console.progress() as tell:
        if not yes:
            planned = console.run(plan(settings, selection, run, tell))
        else:
            done = console.run(
                send(
                    settings,
                    selection,
                    run,
                    ahead=ahead,
                    per_second=per_second,
                    recompute=recompute,
                    planned=lambda found: console.out.print(_said(found), highlight=False, markup=False),
                    progress=tell,
                )
            )
    if not yes:
        console.out.print(_said(planned), highlight=False, markup=False)
        console.out.print("To do it: --yes", highlight=False)
        return
    statuses = ", ".join(f"{count} {status}" for status, count in done.statuses.most_common()) or "nothing to do"
    console.out.print(f"{statuses}; {done.reused} of {done.objects} objects cost no GPU time", highlight=False)
    if done.deleted:
        console.out.print(f"{done.deleted} images were not sent: the broker has deleted their events", highlight=False)


def _said(planned: Plan) -> str:
    """A plan in one line."""
    parts = [f"{len(planned.images)} images to do again from {planned.source.value} as run {planned.run}"]
    if planned.sent:
        parts.append(f"{planned.sent} were sent before, {len(planned.under_way)} of them are on their way")
    if planned.unreadable:
        parts.append(f"{planned.unreadable} events can't be read")
    if planned.incomplete:
        parts.append(f"{planned.incomplete} left out: not all of their objects are there, do these from images")
    if planned.model_s is not None:
        parts.append(f"about {_time(planned.model_s)} in the models, if nothing is found again")
    return printable("; ".join(parts))


def _time(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _ids_in(file: Path) -> frozenset[str]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read: {error}") from None
    return frozenset(line for line in text.splitlines() if line)


@app.command(epilog="Example: [bold]stream-worker compare live mended[/bold]")
def compare(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run, such as live.")],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another run of the same photos.")],
    since: Annotated[
        str | None,
        typer.Option("--from", "--since", help="Completed from then on: 2026-01-31T20:00 (UTC), or 2h (ago)."),
    ] = None,
    until: Annotated[str | None, typer.Option("--to", "--until", help="Completed before then.")] = None,
    most: Annotated[int, typer.Option("--changes", min=0, help="Changed images to list, in the table.")] = 20,
    form: Annotated[Format, typer.Option("--format", help="A table, or all of it as JSON.")] = Format.TABLE,
) -> None:
    """Show what differs between two runs of the same photos: outcomes, objects, volumes, time in the models."""
    from stream_worker.comparison import compare as both
    from stream_worker.window import window

    within = window(since, until, utc_now())
    with console.progress() as tell:
        found = console.run(both(connected(context.obj), first, second, within, tell))
    if form is Format.JSON:
        sys.stdout.write(orjson.dumps(found.plain(), option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    _show(found, most)


def _show(found: Comparison, most: int) -> None:
    one, other = found.sides
    table = Table("", *(Column(Text(printable(side.run)), justify="right") for side in found.sides))
    table.add_row("images", str(one.images), str(other.images))
    table.add_row("... of both runs", str(found.images), str(found.images))
    for name in Outcome:
        table.add_row(name.value, *(str(side.statuses[name.value]) for side in found.sides))
    table.add_section()
    for status in ("reconstructed", "failed", "missing"):
        table.add_row(f"objects {status}", *(str(side.objects[status]) for side in found.sides))
    table.add_row("... found again", str(one.reused), str(other.reused))
    table.add_row("... that the other has not", *(_counted(side.alone) for side in found.sides))
    table.add_section()
    table.add_row("time in the models", _time(one.model_s), _time(other.model_s))
    if found.volume is not None:
        low, middle, high = found.volume
        table.add_row("volume, by the first", "1", f"{middle:.3g} ({low:.3g} to {high:.3g})")
    console.out.print(table)
    if found.changes:
        changed = Table(Column("image", overflow="fold"), Column("what changed", overflow="fold"))
        for change in found.changes[:most]:
            changed.add_row(Text(printable(change.image_id)), Text(printable(change.what)))
        console.out.print(changed)
    rest = len(found.changes) - most
    if rest > 0:
        console.out.print(f"... and {rest} images more: --changes, or --format json", highlight=False)
    if not found.changes:
        console.out.print("No image has another outcome or other objects.", highlight=False)


def _counted(labels: Counter[str]) -> str:
    named = ", ".join(f"{count} {label}" for label, count in labels.most_common(3))
    rest = labels.total() - sum(count for _, count in labels.most_common(3))
    return printable(named + (f", {rest} others" if rest else "")) or "0"
