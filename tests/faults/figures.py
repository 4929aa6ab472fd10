"""The figures of a run, computed from what was sampled: pure."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.commits import Commits, moved_at
from tests.faults.faults import KILL, KILL_MODEL, OF_NODES, OF_WORKERS, Hit
from tests.faults.memory import Life
from tests.faults.offsets import Sample, Source
from tests.faults.stumbles import MODEL

LIVED_S = 120.0
"""A process that lived less is not judged: its quarters would be of its start."""

_OF_A_GROUP = OF_WORKERS | {KILL_MODEL, MODEL}

Visible = Mapping[Source, Sequence[int]]


def lag(sample: Sample, visible: Visible, group: str) -> dict[Source, int]:
    """Records of each partition that a reader could see and the group had not committed. Markers are none."""
    return {
        source: max(0, bisect_left(visible[source], sample.ends[source]) - bisect_left(visible[source], position))
        for source, position in sample.committed[group].items()
    }


def drained_s(samples: Iterable[Sample], visible: Visible, after: float) -> float | None:
    """Seconds from `after` until no group had any lag left, for good; None where that never came."""
    since: float | None = None
    for sample in samples:
        if sample.began < after:
            continue
        if any(any(lag(sample, visible, group).values()) for group in sample.committed):
            since = None
        elif since is None:
            since = sample.ended
    return None if since is None else round(since - after, 1)


@dataclass(frozen=True, slots=True)
class Resumed:
    """How long a group's partitions stood still after one of its workers was killed."""

    at: float
    target: str
    partitions: int
    """Partitions that had work in the first look after the kill."""
    seconds: float | None
    """Until the committed offset of the last of them had moved; None: one never did."""
    beside: tuple[str, ...]
    """Other faults meanwhile: of a broker node, or of a worker or a model of the same group."""


def resumed(
    hits: Sequence[Hit], samples: Sequence[Sample], commits: Commits, visible: Visible, stumbles: Sequence[Hit] = ()
) -> list[Resumed]:
    """Of every kill of a worker whose group had work: when all of the group's partitions with work had moved again.

    Work and position are those of the first look that began after the kill: what the killed one had committed still is
    no resumption. A partition has moved when more than that was committed.
    """
    found = []
    for hit in hits:
        if hit.kind != KILL or hit.group is None:
            continue
        later = [sample for sample in samples if sample.began >= hit.at]
        if not later:
            continue
        first, group = later[0], hit.group
        due = {source: first.committed[group][source] for source, some in lag(first, visible, group).items() if some}
        if not due:
            continue
        moved = [moved_at(commits, group, source, position) for source, position in due.items()]
        last = max((at for at in moved if at is not None), default=hit.at)
        finished = all(at is not None for at in moved)
        until = last if finished else later[-1].ended
        found.append(
            Resumed(
                at=hit.at,
                target=hit.target,
                partitions=len(due),
                seconds=round(last - hit.at, 1) if finished else None,
                beside=tuple(sorted({other.kind for other in (*hits, *stumbles) if _disturbs(other, hit, until)})),
            )
        )
    return found


def _disturbs(other: Hit, hit: Hit, until: float) -> bool:
    """Whether another fault, or what it leaves behind, falls into the time that is measured.

    A node's fault reaches on beyond its end, until clients and replicas have come back; a worker's, a session; a
    model's is over when the model is.
    """
    if other is hit:
        return False
    beyond = 15.0 if other.kind in OF_NODES else 6.0 if other.kind in OF_WORKERS else 0.0
    there = other.at <= until and other.until + beyond >= hit.at
    return there and (other.kind in OF_NODES or (other.kind in _OF_A_GROUP and other.group == hit.group))


@dataclass(frozen=True, slots=True)
class Growth:
    """A process's memory in the last quarter of its life against the second one (medians, MiB)."""

    worker: str
    child: bool
    lived_s: float
    second_mb: float
    last_mb: float

    @property
    def ratio(self) -> float:
        return round(self.last_mb / self.second_mb, 3)


def growth(lives: Iterable[Life]) -> list[Growth]:
    """Of every process that lived long enough, those that grew most first."""
    found = []
    for life in lives:
        if not life.at:
            continue  # it ended before it could be looked at
        lived = life.at[-1] - life.at[0]
        if lived < LIVED_S:
            continue
        second = [mb for at, mb in zip(life.at, life.rss_mb, strict=True) if 0.25 <= (at - life.at[0]) / lived < 0.5]
        last = [mb for at, mb in zip(life.at, life.rss_mb, strict=True) if (at - life.at[0]) / lived >= 0.75]
        found.append(
            Growth(life.worker, life.child, round(lived, 1), statistics.median(second), statistics.median(last))
        )
    return sorted(found, key=lambda one: -one.ratio)
