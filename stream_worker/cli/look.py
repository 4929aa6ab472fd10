"""Commands that look at the service: its lag, its guarantees, its settings."""

from __future__ import annotations

import sys
from typing import Annotated

import orjson
import typer
from rich.table import Column, Table

from stream_worker.cli import console
from stream_worker.doctor.check import Part, State
from stream_worker.errors import Exit
from stream_worker.local_default import connected
from stream_worker.settings import markdown, shown

app = typer.Typer()

STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "red", State.NOT_CHECKED: "dim"}
"""How a finding of the doctor is shown."""


@app.command(epilog="Example: [bold]stream-worker status[/bold]")
def status(context: typer.Context) -> None:
    """Show lag and throughput of every group."""
    from stream_worker.status import measure

    table = Table("group", "reads", "workers", "lag", "records/s", title="stream_worker")
    for row in console.run(measure(connected(context.obj))):
        table.add_row(row.group, row.topic, str(row.members), str(row.lag), f"{row.per_second:.1f}")
    console.out.print(table)


@app.command(epilog="Example: [bold]stream-worker audit --from 2h --json[/bold]")
def audit(
    context: typer.Context,
    since: Annotated[
        str | None, typer.Option("--from", help="Images accepted from then on: 2026-01-31T20:00 (UTC), or 2h (ago).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Images accepted before then.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Blobs: only that they are there, and their size.")] = False,
    drained: Annotated[bool, typer.Option("--drained", help="All is said to be done: nothing is in flight.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Check that every accepted image has its one outcome, with the objects and blobs it should have. Exit code 1: no.

    Reads the topics from their beginning and every referenced blob; changes nothing, and may run beside the service.
    """
    from stream_worker.audit.run import audit as run_audit
    from stream_worker.cli.audit_report import show
    from stream_worker.events import utc_now
    from stream_worker.window import window

    between = window(since, until, utc_now())
    with console.progress() as tell:
        report = console.run(run_audit(connected(context.obj), between, quick=quick, drained=drained, progress=tell))
    if as_json:
        sys.stdout.write(orjson.dumps(report.plain(), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show(report, console.out)
    if not report.holds:
        raise typer.Exit(Exit.FAILED)


@app.command(epilog="Example: [bold]stream-worker -c production.toml doctor --role detector[/bold]")
def doctor(
    context: typer.Context,
    roles: Annotated[list[Part] | None, typer.Option("--role", help="What is to run here; unset: all of them.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Look at what a worker here would need: broker, topics, ACLs, store, clock, GPU, weights, disk. Exit code 1: no.

    Each line says how it is, what was seen, and what to do. Changes nothing, but for a blob that is put, read and
    removed again; may run beside the service, and shows no secret.
    """
    from stream_worker.doctor.check import holds, plain
    from stream_worker.doctor.examination import examine

    findings = console.run(examine(context.obj, list(dict.fromkeys(roles or Part))))
    if as_json:
        sys.stdout.write(orjson.dumps(plain(findings), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        for finding in findings:
            line = f"{finding.state:<12}{finding.check:<10}{console.printable(finding.seen)}"
            console.out.print(line, style=STYLES[finding.state], highlight=False, markup=False, soft_wrap=True)
            if finding.do:
                what = f"{'':<22}-> {console.printable(finding.do)}"
                console.out.print(what, highlight=False, markup=False, soft_wrap=True)
    if not holds(findings):
        raise typer.Exit(Exit.FAILED)


@app.command(epilog="Example: [bold]stream-worker -c production.toml config[/bold]")
def config(
    context: typer.Context,
    defaults: Annotated[bool, typer.Option("--defaults", help="All defaults, as a Markdown table.")] = False,
) -> None:
    """Show the settings in force, secrets masked, with what each is for."""
    if defaults:
        sys.stdout.write(markdown())
        return
    table = Table(Column("setting", no_wrap=True), Column("value", overflow="fold"), "what it is")
    for section, fields in shown(context.obj).items():
        described = type(getattr(context.obj, section)).model_fields
        for name, value in fields.items():
            shown_value = "unset" if value is None else str(value)
            table.add_row(f"{section}.{name}", shown_value, described[name].description or "")
    console.out.print(table)
