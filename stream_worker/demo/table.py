"""The table that a run ends with: images, their objects, and the time of each stage."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from stream_worker import events
from stream_worker.demo.record import RunRecord
from stream_worker.demo.timeline import stage_times

STYLES = {"complete": "green", "partial": "yellow", "failed": "red", "missing": "red"}
WAITING = "no outcome"


def table(record: RunRecord) -> Table:
    """One row per object, or per image that has none; it fits 80 columns where names are short."""
    result = Table(
        title="Completed images",
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    result.add_column("image", overflow="fold")
    result.add_column("status", no_wrap=True)
    result.add_column("object", overflow="fold", min_width=7)
    for name in ("conf", "w x h x d", "volume", "detect", "3D", "join"):
        result.add_column(name, justify="right", no_wrap=True)
    units = set()
    for image_id in record.photos:
        times = stage_times(record, image_id)
        stages = ["" if value is None else f"{value:.2f}" for value in (times.detect, times.reconstruct, times.join)]
        status, _ = status_of(record, image_id)
        head: list[str | Text] = [Text(printable(image_id)), Text(status, style=STYLES.get(status, "red"))]
        rows = [_object_cells(item) for item in _objects(record, image_id)] or [["-", "", "", ""]]
        for number, cells in enumerate(rows):
            first = number == 0
            result.add_row(*(head if first else ["", ""]), *cells, *(stages if first else ["", "", ""]))
        units |= {item.geometry.unit for item in _objects(record, image_id) if item.geometry}
    lengths = f"Lengths: {printable('; '.join(sorted(units)))}; volumes: its cube. " if units else ""
    result.caption = Text(f"{lengths}Times: seconds a stage.")
    return result


def faults(record: RunRecord) -> list[str]:
    """Why images and objects have no result; a line each, ready for a terminal."""
    lines = []
    for image_id in record.photos:
        _, why = status_of(record, image_id)
        if why:
            lines.append(f"{printable(image_id)}: {why}")
        lines += [
            printable(f"{image_id}, object {item.index} ({item.label}): ") + (reason(item.reason) or item.status)
            for item in _objects(record, image_id)
            if item.status != "reconstructed"
        ]
    return lines


def seconds(value: float | None) -> str:
    """A duration for people; empty for None."""
    if value is None:
        return ""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def length(value: float) -> str:
    """A length for people, in whatever unit."""
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def status_of(record: RunRecord, image_id: str) -> tuple[str, str]:
    """An image's status, and why where it is not complete."""
    done = record.completed.get(image_id)
    if done is None:
        return WAITING, ""
    return done.status, reason(done.reason)


def reason(failure: events.Failure | None) -> str:
    """A failure as one line; empty for None."""
    return printable(f"{failure.code}: {failure.message}") if failure else ""


def printable(text: str) -> str:
    """Text from outside without what would steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _objects(record: RunRecord, image_id: str) -> list[events.ObjectOutcome]:
    done = record.completed.get(image_id)
    return sorted(done.objects, key=lambda item: item.index) if done else []


def _object_cells(item: events.ObjectOutcome) -> list[str | Text]:
    label, confidence = Text(printable(item.label)), f"{item.confidence:.2f}"
    if item.geometry is None:
        why = item.reason.code if item.reason else item.status
        return [label, confidence, Text(printable(why), style="red"), ""]
    sides = item.geometry.oriented_box
    size = "x".join(map(length, (sides.width, sides.height, sides.depth)))
    return [label, confidence, size, f"{item.geometry.volume:.2g}"]
