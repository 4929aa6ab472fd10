"""Two runs of the same photos beside each other: what a replay has changed. `stream-worker compare`.

An object of one run is that of the other where both have its label and their boxes overlap most, by at least
`SAME_IOU` (intersection over union, as in PASCAL VOC).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from statistics import quantiles
from typing import Any

import orjson

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.events import CompletedImageEvent
from stream_worker.reading import Passed, Progress, TopicReader
from stream_worker.settings import Settings
from stream_worker.window import Window

SAME_IOU = 0.5
DETECTING, RECONSTRUCTING = "detector_detect", "reconstructor_reconstruct"
"""Phases of an outcome's `times` in which a model works."""


@dataclass(frozen=True, slots=True)
class Item:
    """An object, as far as it is compared."""

    label: str
    box: tuple[float, ...]
    status: str
    volume: float | None
    unit: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """An image's outcome under one run, its last revision."""

    revision: int
    status: str
    reason: str | None
    items: tuple[Item, ...]
    model_s: float
    reused: int

    @classmethod
    def of(cls, event: CompletedImageEvent) -> Seen:
        """What is kept of an outcome."""
        items = []
        for one in event.objects:
            volume, unit = (one.geometry.volume, one.geometry.unit) if one.geometry else (None, None)
            items.append(Item(one.label, tuple(one.box), one.status, volume, unit))
        return cls(
            event.revision,
            event.status,
            event.reason.code if event.reason else None,
            tuple(items),
            sum(event.times.get(phase, 0.0) for phase in (DETECTING, RECONSTRUCTING)),
            sum(one.reused for one in event.objects),
        )


@dataclass(slots=True)
class Side:
    """One run in numbers; only images that both runs have are in all but `images`."""

    run: str
    images: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    """By their status."""
    alone: Counter[str] = field(default_factory=Counter)
    """By label: objects that only this run has."""
    reused: int = 0
    model_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """An image that is not as it was, in words."""

    image_id: str
    what: str


@dataclass(slots=True)
class Comparison:
    """Two runs beside each other."""

    sides: tuple[Side, Side]
    images: int = 0
    """In both runs."""
    matched: int = 0
    """Objects that both runs have."""
    volume: tuple[float, float, float] | None = None
    """Second volume by first, of matched objects in the same unit: fifth, fiftieth and ninety-fifth percentile."""
    changes: list[Change] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        plain: dict[str, Any] = orjson.loads(orjson.dumps(self))
        return plain


async def compare(
    settings: Settings,
    first: str,
    second: str,
    within: Window | None = None,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """Compare the images of two runs, completed within a window.

    Raises UserError where the broker is away, or has no image of one of the runs.
    """
    counts = await topics.counts(settings.kafka)
    if topics.COMPLETED not in counts:
        raise UserError(f"topic {settings.kafka.prefix}{topics.COMPLETED} is missing", Exit.TOPICS)
    window, passed = within or Window(), Passed(progress)
    seen: dict[str, dict[str, Seen]] = {first: {}, second: {}}
    async with TopicReader(settings.kafka, passed=passed) as reader:
        name = settings.kafka.prefix + topics.COMPLETED
        spans = await reader.spans(name, counts[topics.COMPLETED], since=window.since, until=window.until)
        passed.expect(topics.COMPLETED, spans)
        async for record in reader.records(spans):
            try:
                event = decode(CompletedImageEvent, record.value)
            except RecordFault:
                continue
            if (images := seen.get(event.run)) is None:
                continue
            if (before := images.get(event.image_id)) is None or before.revision < event.revision:
                images[event.image_id] = Seen.of(event)
    for run, images in seen.items():
        if not images:
            raise UserError(f"there is no completed image of run {run}", Exit.FAILED)
    return beside(first, seen[first], second, seen[second])


def beside(first: str, one: dict[str, Seen], second: str, other: dict[str, Seen]) -> Comparison:
    """Two runs' images by image_id, compared. `Comparison.changes` are in the order of the first run."""
    found = Comparison((Side(first, len(one)), Side(second, len(other))))
    ratios: list[float] = []
    for image_id, before in one.items():
        if (after := other.get(image_id)) is None:
            continue
        found.images += 1
        for side, seen in zip(found.sides, (before, after), strict=True):
            side.statuses[seen.status] += 1
            side.objects.update(item.status for item in seen.items)
            side.reused += seen.reused
            side.model_s += seen.model_s
        pairs, lost, gained = matched(before.items, after.items)
        found.matched += len(pairs)
        found.sides[0].alone.update(item.label for item in lost)
        found.sides[1].alone.update(item.label for item in gained)
        ratios += [b.volume / a.volume for a, b in pairs if a.volume and b.volume is not None and a.unit == b.unit]
        if what := _changed(before, after, lost, gained, pairs):
            found.changes.append(Change(image_id, what))
    if ratios:
        cuts = quantiles([*ratios, *ratios], n=20, method="inclusive")  # twice: two values are the least it takes
        found.volume = cuts[0], cuts[9], cuts[18]
    return found


def matched(
    first: tuple[Item, ...], second: tuple[Item, ...]
) -> tuple[list[tuple[Item, Item]], list[Item], list[Item]]:
    """The pairs that are the same object, the best overlap first; and what is left of either side."""
    overlaps = [
        (iou(a.box, b.box), i, j)
        for (i, a), (j, b) in product(enumerate(first), enumerate(second))
        if a.label == b.label
    ]
    left, right = dict(enumerate(first)), dict(enumerate(second))
    pairs = []
    for overlap, i, j in sorted(overlaps, key=lambda found: (-found[0], *found[1:])):
        if overlap >= SAME_IOU and i in left and j in right:
            pairs.append((left.pop(i), right.pop(j)))
    return pairs, list(left.values()), list(right.values())


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    whole = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / whole if whole > 0 else 0.0


def _changed(before: Seen, after: Seen, lost: list[Item], gained: list[Item], pairs: list[tuple[Item, Item]]) -> str:
    """What is other than it was, volumes aside: those are seldom the same to the last digit."""
    parts = []
    if (before.status, before.reason) != (after.status, after.reason):
        parts.append(" -> ".join(one.status + (f" ({one.reason})" if one.reason else "") for one in (before, after)))
    parts += [f"- {item.label}" for item in lost] + [f"+ {item.label}" for item in gained]
    parts += [f"{a.label}: {a.status} -> {b.status}" for a, b in pairs if a.status != b.status]
    return ", ".join(parts)
