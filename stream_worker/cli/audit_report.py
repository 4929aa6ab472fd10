"""The audit's report for people: what was counted, what was found, and whether all guarantees hold."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from stream_worker.audit.findings import EXAMPLES, MEANING, Kind, Report
from stream_worker.cli.console import printable


def show(report: Report, console: Console) -> None:
    """Print a report."""
    console.print(_counts(report))
    if report.findings.counts:
        console.print(_violations(report))
    kinds = len(report.findings.counts)
    if report.holds:
        console.print(Text(f"All guarantees hold. ({report.took_s:.1f} s)", style="bold green"))
    else:
        total = sum(report.findings.counts.values())
        console.print(Text(f"{total} violations of {kinds} kinds. ({report.took_s:.1f} s)", style="bold red"))


def _counts(report: Report) -> Table:
    images, blobs, found = report.images, report.blobs, report.findings.counts
    since = f"from {report.since:%Y-%m-%d %H:%M:%S %Z}" if report.since else "from the beginning"
    until = f"to {report.until:%Y-%m-%d %H:%M:%S %Z}" if report.until else f"to {report.at:%Y-%m-%d %H:%M:%S %Z}"
    table = Table(Column("what"), Column("count", justify="right"), Column("note"), title=f"audit {since} {until}")
    repeated = images.events - images.accepted
    table.add_row("accepted", f"{images.accepted}", f"{repeated} repeated image events" if repeated else "")
    terminal = f"{images.complete} complete, {images.partial} partial, {images.failed} failed"
    table.add_row("terminal", f"{images.terminal}", terminal)
    table.add_row("in flight", f"{images.in_flight}", "no outcome yet, and the deadline has not passed")
    table.add_row("missing", f"{found[Kind.MISSING]}", "")
    table.add_row("duplicated", f"{found[Kind.DUPLICATED]}", "")
    table.add_row("refused", f"{images.refused}", "image events that can't be read: dead letters, no images")
    for topic, reasons in sorted(report.dead_letters.items()):
        why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        table.add_row(Text(f"dead letters of {printable(topic)}"), f"{sum(reasons.values())}", Text(printable(why)))
    checked = "there, size checked" if report.quick else f"{blobs.read_bytes / 2**20:.1f} MiB read, sha256 checked"
    table.add_row("blobs referenced", f"{blobs.referenced}", checked)
    table.add_row("blobs missing or wrong", f"{found[Kind.BLOB_MISSING] + found[Kind.BLOB_WRONG]}", "")
    if blobs.unreferenced is not None:
        unknown = blobs.unreferenced_age_unknown
        note = f"and {unknown} of unknown age" if unknown else "older than an hour; no violation"
        table.add_row("blobs nothing references", f"{blobs.unreferenced}", note)
    for name, count, note in (
        ("stray results", images.strays, "of objects that no manifest names; no violation"),
        ("outside", images.outside, "events of images accepted outside the window or what `images` still holds"),
        ("not judged", images.unjudged, "outcomes whose manifest `detections` no longer holds"),
    ):
        if count:
            table.add_row(name, f"{count}", note)
    return table


def _violations(report: Report) -> Table:
    table = Table("guarantee", "image", "run", Column("what", overflow="fold"), title="violations", show_lines=False)
    for kind in Kind:
        count = report.findings.counts[kind]
        if not count:
            continue
        guarantee, meaning = MEANING[kind]
        table.add_section()
        table.add_row(guarantee, f"[bold]{kind.value}[/bold]", f"{count}", meaning, style="red")
        for one in report.findings.examples.get(kind, []):
            table.add_row("", *(Text(printable(text or "")) for text in (one.image_id, one.run, one.detail)))
        if count > EXAMPLES:
            table.add_row("", "...", "", "")
    return table
