"""The table that a run ends with: images, their objects, and the time of each stage."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from stream_worker import events
from stream_worker.demo.record import RunRecord
from stream_worker.demo.timeline import stage_times

STYLES = {"complete": "green", "partial": "yellow", "failed": "red", "missing": "red"}
WAITING = "no outcome"


def table(record: RunRecord) -> Table:
    """One row per object, or per image that has none. Lengths and volumes are in the unit of the caption."""
    result = Table(title="Completed images", title_justify="left", caption_justify="left", header_style="bold")
    for name in ("image", "status", "object"):
        result.add_column(name, overflow="fold")
    for name in ("conf.", "w x h x d", "volume", "detect", "3D", "join"):
        result.add_column(name, justify="right", no_wrap=name != "volume")
    units = set()
    for image_id in record.photos:
        times = stage_times(record, image_id)
        stages = [seconds(times.detect), seconds(times.reconstruct), seconds(times.join)]
        rows = [_object_cells(item) for item in _objects(record, image_id)] or [["-", "", "", ""]]
        for number, cells in enumerate(rows):
            head = [Text(printable(image_id)), _status(record, image_id)] if number == 0 else ["", ""]
            tail = stages if number == 0 else ["", "", ""]
            result.add_row(*head, *cells, *tail, end_section=number == len(rows) - 1)
        units |= {item.geometry.unit for item in _objects(record, image_id) if item.geometry}
    if units:
        result.caption = Text("Unit of lengths: " + "; ".join(sorted(units)) + ". Volumes: its cube.")
    return result


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


def _status(record: RunRecord, image_id: str) -> Text:
    status, why = status_of(record, image_id)
    text = Text(status, style=STYLES.get(status, "red"))
    return text.append(f"\n{why}", style="red") if why else text


def _object_cells(item: events.ObjectOutcome) -> list[str | Text]:
    confidence = f"{item.confidence:.2f}"
    if item.geometry is None:
        return [
            Text(printable(item.label)),
            confidence,
            Text(item.status, style="red"),
            Text(reason(item.reason), style="red"),
        ]
    box = item.geometry.oriented_box
    size = " x ".join(map(length, (box.width, box.height, box.depth)))
    return [Text(printable(item.label)), confidence, size, f"{item.geometry.volume:.3g}"]
