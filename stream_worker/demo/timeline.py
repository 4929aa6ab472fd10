"""Who worked on what, and when: the spans of a run, from the times that its events carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from stream_worker import events
from stream_worker.demo.record import RunRecord

WAITING = "waiting"
MOST_ROWS = 300
"""Beyond so many rows only images are shown, not their objects."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the time line: a photo, or one of its objects."""

    image_id: str
    index: int | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A bar of the time line. `start` and `end` are seconds since the run's first photo was published."""

    row: Row
    kind: str
    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds that one photo took from publishing to its manifest, to its last result, to its completion."""

    detect: float | None = None
    reconstruct: float | None = None
    join: float | None = None
    total: float | None = None


def stage_times(record: RunRecord, image_id: str) -> StageTimes:
    """How long each stage took for a photo; None for what has not happened, or has nothing to do."""
    manifest, done = record.manifests.get(image_id), record.completed.get(image_id)
    published = manifest.published_at if manifest else done.published_at if done else None
    last = _last_result(record, image_id)
    before_join = last or (manifest.detected_at if manifest else None)
    return StageTimes(
        _between(published, manifest.detected_at) if manifest else None,
        _between(manifest.detected_at, last) if manifest else None,
        _between(before_join, done.completed_at) if done else None,
        _between(published, done.completed_at) if done else None,
    )


def spans(record: RunRecord) -> list[Span]:
    """The bars of a run, photos in the order of publishing, each followed by its objects."""
    zero = started(record)
    if zero is None:
        return []
    found: list[Span] = []
    with_objects = len(record.photos) + len(record.reconstructions) <= MOST_ROWS
    for image_id in record.photos:
        found += _image_spans(record, image_id, zero)
        if with_objects:
            for result in results_of(record, image_id):
                found += _object_spans(record, result, zero)
    return found


def started(record: RunRecord) -> datetime | None:
    """When the first photo was published."""
    moments = [event.published_at for event in record.manifests.values()]
    return min(moments + [event.published_at for event in record.completed.values()], default=None)


def results_of(record: RunRecord, image_id: str) -> list[events.ReconstructionEvent]:
    """The reconstruction events of one photo, by index."""
    found = [event for event in record.reconstructions.values() if event.image_id == image_id]
    return sorted(found, key=lambda event: event.index)


def _image_spans(record: RunRecord, image_id: str, zero: datetime) -> list[Span]:
    manifest, done = record.manifests.get(image_id), record.completed.get(image_id)
    row, found = Row(image_id), []
    if manifest is not None:
        begin, end = _seconds(zero, manifest.published_at), _seconds(zero, manifest.detected_at)
        worked = max(begin, end - _model_seconds(manifest.times))
        who = record.workers.get(("detection", image_id), "detector")
        text = f"{len(manifest.objects)} objects" if manifest.status == "detected" else _why(manifest.reason)
        found += [
            Span(row, WAITING, begin, worked, "waiting for a detector"),
            Span(row, who, worked, end, _phases(text, manifest.times)),
        ]
    if done is not None:
        last = _last_result(record, image_id) or (manifest.detected_at if manifest else done.published_at)
        who = record.workers.get(("completed-image", image_id), "aggregator")
        found.append(Span(row, who, _seconds(zero, last), _seconds(zero, done.completed_at), done.status))
    return found


def _object_spans(record: RunRecord, result: events.ReconstructionEvent, zero: datetime) -> list[Span]:
    source = record.objects.get(result.object_id)
    begin = _seconds(zero, source.detected_at if source else result.published_at)
    end = _seconds(zero, result.reconstructed_at)
    stored = max(begin, end - result.times.get("store", 0.0))
    worked = max(begin, stored - _model_seconds(result.times))
    who = record.workers.get(("reconstruction", result.object_id), "reconstructor")
    text = result.label if result.status == "reconstructed" else f"{result.label}: {_why(result.reason)}"
    row = Row(result.image_id, result.index, result.label)
    return [
        Span(row, WAITING, begin, worked, "waiting for a reconstructor"),
        Span(row, who, worked, stored, _phases(text, result.times)),
    ]


def _model_seconds(times: Mapping[str, float]) -> float:
    """Seconds that the model worked on a record, without the wait for it while it worked on another.

    A detector tells the phases inside its model as `detect_...`; a reused result took only `reuse`.
    """
    inside = sum(seconds for phase, seconds in times.items() if phase.startswith("detect_"))
    return inside or times.get("reconstruct") or times.get("detect") or times.get("reuse") or 0.0


def _phases(text: str, times: Mapping[str, float]) -> str:
    """What is told of a bar: its text, and what the event says of its phases."""
    return "; ".join([text, *(f"{phase} {seconds * 1000:.0f} ms" for phase, seconds in times.items())])


def _why(reason: events.Failure | None) -> str:
    return reason.code if reason else "failed"


def _last_result(record: RunRecord, image_id: str) -> datetime | None:
    return max((event.reconstructed_at for event in results_of(record, image_id)), default=None)


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())


def _seconds(zero: datetime, moment: datetime) -> float:
    return max(0.0, (moment - zero).total_seconds())
