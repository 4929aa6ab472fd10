"""The report of a run: one HTML file that needs nothing else, not even a network.

What it shows comes from outside (image ids, labels, reasons). It gets into the page in three ways only: as text that
jinja2 escapes, as JSON that jinja2 makes safe inside a script element, and as the numbers and colours of our own.
A content security policy forbids the page every request.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from stream_worker import events
from stream_worker.demo import drawing, timeline, views
from stream_worker.demo.record import RunRecord
from stream_worker.demo.results import write_whole
from stream_worker.demo.table import length, reason, seconds, status_of
from stream_worker.errors import UserError

try:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs
except ModuleNotFoundError as missing:
    raise UserError(f"the demo's report needs {missing.name}: install stream-worker[demo]") from None

NAME = "report.html"
ALL_POINTS = 250_000
"""Points of all views together: about 5 MB of the page."""

FEWEST_POINTS = 300
MANY_PHOTOS = 24
SMALL = 480
"""Pixels of a drawn photo's longer side when there are many."""

WORK_COLOURS = ("#3fa7ff", "#3ecf8e", "#ffb020", "#b57bff", "#ff7ac6", "#27c4d9", "#ff8a4c", "#9bd13c")
WAITING_COLOUR = "rgba(128,140,160,.28)"


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """One object as the template shows it. `view` is JSON for its 3D view; without one, `note` says why."""

    anchor: str
    label: str
    confidence: float
    colour: str
    layer: drawing.Drawn | None
    left: float
    top: float
    size: str
    volume: str
    gaussians: int
    ply: str | None
    note: str
    view: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class PhotoPart:
    """One photo as the template shows it."""

    name: str
    status: str
    reason: str
    width: int
    height: int
    picture: drawing.Drawn | None
    objects: list[ObjectPart]
    times: list[tuple[str, str]]


def write(out: Path, record: RunRecord) -> Path:
    """Write `out/report.html` from the run's events, photos and PLY files; its path."""
    path = out / NAME
    write_whole(path, page(record).encode("utf-8", errors="replace"))
    return path


def page(record: RunRecord) -> str:
    """The report as HTML."""
    environment = Environment(
        loader=PackageLoader("stream_worker.demo", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    source = environment.loader
    assert source is not None
    units = sorted({item.geometry.unit for item in _outcomes(record) if item.geometry})
    return environment.get_template("report.html.j2").render(
        run=record.run,
        started=timeline.started(record),
        succeeded=record.succeeded,
        tiles=_tiles(record),
        photos=_photos(record),
        units=units,
        models=_models(record),
        gantt=_gantt(record),
        # Our own files and plotly's: the only text that goes into the page as it is.
        style=Markup(source.get_source(environment, "report.css")[0]),  # noqa: S704
        script=Markup(source.get_source(environment, "report.js")[0]),  # noqa: S704
        plotly=Markup(get_plotlyjs()),  # noqa: S704
    )


def _outcomes(record: RunRecord) -> list[events.ObjectOutcome]:
    return [item for event in record.completed.values() for item in event.objects]


def _tiles(record: RunRecord) -> list[tuple[str, str, str]]:
    """The figures at the top: value, name, explanation."""
    outcomes = _outcomes(record)
    done = [item for item in outcomes if item.status == "reconstructed"]
    complete = sum(event.status == "complete" for event in record.completed.values())
    zero = timeline.started(record)
    ends = [event.completed_at for event in record.completed.values()]
    wall = (max(ends) - zero).total_seconds() if ends and zero else None
    each = [timeline.stage_times(record, image_id).total for image_id in record.photos]
    waits = [value for value in each if value is not None]
    gaussians = sum(item.geometry.gaussians for item in done if item.geometry)
    return [
        (f"{complete}/{len(record.photos)}", "photos complete", "every object of the photo has its 3D result"),
        (f"{len(done)}/{len(outcomes)}", "objects in 3D", "reconstructed, of those that were detected"),
        (_thousands(gaussians), "Gaussians", "in all PLY files together"),
        (seconds(wall) or "-", "first event to last result", "from publishing the first photo to the last completion"),
        (seconds(median(waits) if waits else None) or "-", "a photo, median", "from publishing to completion"),
        (f"{60 * len(done) / wall:.0f}" if wall else "-", "objects a minute", "the throughput of this run"),
    ]


def _thousands(number: int) -> str:
    return (
        f"{number / 1e6:.2f} M" if number >= 1_000_000 else f"{number / 1e3:.0f} k" if number >= 10_000 else str(number)
    )


def _models(record: RunRecord) -> list[str]:
    """Who did it: the models that the events name."""
    detectors = {event.detector for event in record.completed.values() if event.detector}
    makers = {item.model for item in _outcomes(record) if item.model}
    lines = [
        f"{role}: {model.name} {model.version}".strip()
        for role, found in (("detector", detectors), ("3D", makers))
        for model in found
    ]
    return sorted(lines)


def _photos(record: RunRecord) -> list[PhotoPart]:
    longest = SMALL if len(record.photos) > MANY_PHOTOS else drawing.LONGEST
    points = min(views.POINTS, max(FEWEST_POINTS, ALL_POINTS // max(1, len(record.plys))))
    return [_photo(record, image_id, longest, points) for image_id in record.photos]


def _photo(record: RunRecord, image_id: str, longest: int, points: int) -> PhotoPart:
    done, manifest = record.completed.get(image_id), record.manifests.get(image_id)
    image = (done.image if done else None) or (manifest.image if manifest else None)
    status, why = status_of(record, image_id)
    picture = None
    if image is not None:
        try:
            picture = drawing.photo(record.photos[image_id], image.width, image.height, longest)
        except ValueError as error:
            why = why or str(error)
    times = timeline.stage_times(record, image_id)
    named = (("detect", times.detect), ("reconstruct", times.reconstruct), ("join", times.join), ("total", times.total))
    items = sorted(done.objects, key=lambda item: item.index) if done else []
    return PhotoPart(
        image_id,
        status,
        why,
        image.width if image else 4,
        image.height if image else 3,
        picture,
        [_object(record, item, image, longest, points) for item in items],
        [(name, seconds(value)) for name, value in named if value is not None],
    )


def _object(
    record: RunRecord, item: events.ObjectOutcome, image: events.PhotoRef | None, longest: int, points: int
) -> ObjectPart:
    event, geometry = record.objects.get(item.object_id), item.geometry
    colour = drawing.tint(item.index)
    layer, view, note = None, None, reason(item.reason)
    if event is not None:
        try:
            layer = drawing.mask_layer(event.mask, colour, longest)
        except ValueError as error:
            note = note or str(error)
    path = record.plys.get(item.object_id)
    if path is not None and geometry is not None:
        try:
            view = views.view(path.read_bytes(), geometry, points)
        except (ValueError, OSError) as error:
            note = note or f"the PLY can't be shown: {error}"
    box = geometry.oriented_box if geometry else None
    return ObjectPart(
        f"object-{item.object_id}",
        item.label,
        item.confidence,
        colour,
        layer,
        _percent(item.box[0], image.width if image else 1),
        _percent(item.box[1], image.height if image else 1),
        " × ".join(map(length, (box.width, box.height, box.depth))) if box else "",  # noqa: RUF001
        f"{geometry.volume:.3g}" if geometry else "",
        geometry.gaussians if geometry else 0,
        f"ply/{path.name}" if path else None,
        note or ("" if view else item.status),
        view,
    )


def _percent(position: float, side: int) -> float:
    return round(min(max(100 * position / side, 0.0), 100.0), 2)


def _gantt(record: RunRecord) -> dict[str, Any]:
    """The time line as plotly takes it. Plotly reads markup in texts, so these are escaped here."""
    spans = timeline.spans(record)
    rows = list(dict.fromkeys(span.row for span in spans))
    place = {row: number for number, row in enumerate(rows)}
    kinds = sorted({span.kind for span in spans} - {timeline.WAITING}, key=_stage_order)
    colours = {kind: WORK_COLOURS[number % len(WORK_COLOURS)] for number, kind in enumerate(kinds)}
    colours[timeline.WAITING] = WAITING_COLOUR
    traces = []
    for kind in [*kinds, timeline.WAITING]:
        own = [span for span in spans if span.kind == kind and span.end > span.start]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": html.escape(kind),
                "marker": {"color": colours[kind], "line": {"width": 0}},
                "base": [round(span.start, 4) for span in own],
                "x": [round(span.end - span.start, 4) for span in own],
                "y": [place[span.row] for span in own],
                "hovertext": [
                    f"{html.escape(span.text)}<br>{html.escape(kind)}: {seconds(span.end - span.start)}" for span in own
                ],
                "hoverinfo": "text",
                "width": 0.72,
            }
        )
    return {"traces": traces, "rows": len(rows), "ticks": list(_row_names(rows))}


def _stage_order(kind: str) -> tuple[int, str]:
    stages = ("detector", "reconstructor", "aggregator")
    return next((place for place, stage in enumerate(stages) if kind.startswith(stage)), len(stages)), kind


def _row_names(rows: Iterable[timeline.Row]) -> Iterable[str]:
    for row in rows:
        name = row.image_id if row.index is None else row.label
        short = html.escape(name if len(name) <= 22 else name[:10] + "…" + name[-11:])
        yield f"<b>{short}</b>" if row.index is None else short
