"""Commands for dead letters."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import orjson
import typer
from rich.table import Column, Table
from rich.text import Text

from stream_worker.cli import console
from stream_worker.cli.console import Format, printable
from stream_worker.errors import Exit, Reason, UserError
from stream_worker.local_default import connected
from stream_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream_worker.letters import Wanted
    from stream_worker.records import Output

app = typer.Typer(help="Records that no retry could mend.", no_args_is_help=True)


_Topic = Annotated[str | None, typer.Option(help="Only of this topic, such as images.")]
_Stage = Annotated[str | None, typer.Option(help="Only of this stage, such as detector.")]
_Reasons = Annotated[list[Reason] | None, typer.Option("--reason", help="Only these reasons; may be given again.")]
_Since = Annotated[
    str | None, typer.Option("--since", "--from", help="Only from then on: 2026-01-31T20:00 (UTC), or 2h (ago).")
]
_Until = Annotated[str | None, typer.Option("--until", "--to", help="Only before then.")]


def _wanted(
    topic: str | None, stage: str | None, reasons: list[Reason] | None, since: str | None, until: str | None
) -> Wanted:
    from stream_worker.events import utc_now
    from stream_worker.letters import Wanted
    from stream_worker.window import Window, moment

    now = utc_now()
    between = Window(*(None if text is None else moment(text, now) for text in (since, until)))
    return Wanted(between, topic, stage, frozenset(reason.value for reason in reasons or ()))


@app.command("list", epilog="Example: [bold]stream-worker dead-letters list --since 1d --reason fetch_failed[/bold]")
def letters_list(
    context: typer.Context,
    topic: _Topic = None,
    stage: _Stage = None,
    reasons: _Reasons = None,
    since: _Since = None,
    until: _Until = None,
    form: Annotated[Format, typer.Option("--format", help="A line a letter, or all of it as JSON lines.")] = (
        Format.TABLE
    ),
) -> None:
    """List dead letters, the oldest first, and how many there are of each reason."""
    console.run(_letters_list(connected(context.obj), _wanted(topic, stage, reasons, since, until), form))


async def _letters_list(settings: Settings, wanted: Wanted, form: Format) -> None:
    from stream_worker.letters import letters

    counts: Counter[str] = Counter()
    names = ("letter", "time", "from", "stage", "reason", "key", "message")
    table = Table(*(Column(name, overflow="fold") for name in names), title="dead letters")
    with console.progress() as tell:
        async for one in letters(settings, wanted, tell):
            counts[one.reason] += 1
            if form is Format.JSON:
                sys.stdout.write(orjson.dumps(one.plain()).decode() + "\n")
                continue
            key = (one.key or b"").decode("utf-8", "replace")
            cells = (one.name, f"{one.at:%Y-%m-%d %H:%M:%S}", one.topic, one.stage, one.reason, key, one.message)
            table.add_row(*(Text(printable(cell)) for cell in cells))
    if form is Format.TABLE:
        if counts:
            console.out.print(table)
        said = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        console.out.print(printable(said) or "no dead letters", highlight=False, markup=False)


@app.command("show", epilog="Example: [bold]stream-worker dead-letters show 0:17[/bold]")
def letters_show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="As `dead-letters list` shows it.")],
) -> None:
    """Show a dead letter as text: why it is one, its key, its headers and its value."""
    from stream_worker.letters import letter, readable

    found = console.run(letter(connected(context.obj), name))
    why = {
        "from": f"{found.topic} {found.place}",
        "stage": found.stage,
        "reason": found.reason,
        "message": found.message,
        "attempts": f"{found.attempts}, from {found.first_at} to {found.last_at}",
        "key": readable(found.key),
        **{f"header {header}": readable(value) for header, value in found.headers},
    }
    for what, text in why.items():
        console.out.print(f"{printable(what)}: {printable(text)}", highlight=False, markup=False, soft_wrap=True)
    for line in readable(found.value).splitlines():
        console.out.print(printable(line), highlight=False, markup=False, soft_wrap=True)


@app.command("export", epilog="Example: [bold]stream-worker dead-letters export letters.jsonl --since 7d[/bold]")
def letters_export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON lines, one a letter; key, value and headers in base64.")],
    topic: _Topic = None,
    stage: _Stage = None,
    reasons: _Reasons = None,
    since: _Since = None,
    until: _Until = None,
) -> None:
    """Write dead letters to a file that is not there yet; it appears when all of them are in it."""
    if file.exists():
        raise UserError(f"{file} is there already: name another")
    wanted, part = _wanted(topic, stage, reasons, since, until), file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as target:
            count = console.run(_letters_export(connected(context.obj), wanted, target))
        part.rename(file)
    except OSError as error:
        raise UserError(f"{file} can't be written: {error.strerror}", Exit.FAILED) from None
    finally:
        part.unlink(missing_ok=True)
    console.out.print(f"{count} dead letters are in {file}", highlight=False)


async def _letters_export(settings: Settings, wanted: Wanted, target: BinaryIO) -> int:
    from stream_worker.letters import letters

    count = 0
    with console.progress() as tell:
        async for one in letters(settings, wanted, tell):
            target.write(orjson.dumps(one.plain()) + b"\n")
            count += 1
    return count


@app.command(
    "retry", epilog="Example: [bold]stream-worker dead-letters retry --since 1d --reason fetch_failed --yes[/bold]"
)
def letters_retry(
    context: typer.Context,
    topic: _Topic = None,
    stage: _Stage = None,
    reasons: _Reasons = None,
    since: _Since = None,
    until: _Until = None,
    most: Annotated[int, typer.Option(min=1, help="Leave out what was tried again so often already.")] = 3,
    yes: Annotated[
        bool, typer.Option("--yes", help="Send them. Without it, only what would be sent is shown.")
    ] = False,
) -> None:
    """Send dead letters back to where they came from, to be tried again; photos under a run of their own.

    The letters stay. One that is sent twice is done once.
    """
    console.run(_letters_retry(connected(context.obj), _wanted(topic, stage, reasons, since, until), most, yes))


async def _letters_retry(settings: Settings, wanted: Wanted, most: int, yes: bool) -> None:
    from stream_worker.events import utc_now
    from stream_worker.letters import letters, retried, send

    now, grace_s = utc_now(), settings.aggregator.grace_s
    counts: Counter[str] = Counter()

    async def outputs() -> AsyncIterator[Output]:
        async for one in letters(settings, wanted, tell):
            found = retried(one, most, grace_s, now)
            counts["left out" if isinstance(found, str) else one.topic] += 1
            if isinstance(found, str):
                console.err.print(printable(f"{one.name} is left out: {found}"), highlight=False, markup=False)
                continue
            yield found

    with console.progress() as tell:
        if yes:
            await send(settings, outputs())
        else:
            async for _ in outputs():
                pass
    left = counts.pop("left out", 0)
    total = sum(counts.values())
    where = ", ".join(f"{count} to {topic}" for topic, count in counts.most_common())
    said = f"{total} dead letters {'sent' if yes else 'would be sent'}{': ' + where if where else ''}; {left} left out"
    console.out.print(
        printable(said if yes or not total else said + ". To send them: --yes"), highlight=False, markup=False
    )
