"""Figures of several runs, and of what was seen in one. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SKIPPED = 0.1
"""The share at the beginning of a span that says more of its start than of its pace."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some runs, with the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def shown(self, digits: int = 3) -> str:
        """As it stands in a table."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.most:,.{digits}f})"


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of all are not above; between two neighbours in proportion."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True, slots=True)
class Seen:
    """How many records were done at a moment, as an observer saw it."""

    at: float
    done: int


def rate(seen: Sequence[Seen], total: int, since: float = SKIPPED, until: float = 1.0) -> float:
    """Records a second between the first and the last move that was seen from `since` to `until` of `total`.

    From move to move, so that one who commits seldom is measured as well as one who commits often. The last move of
    all is left out where there are enough without it: it may have waited for more to come. Raises ValueError where
    too little was seen.
    """
    moves = [seen[0], *(later for sooner, later in pairwise(seen) if later.done > sooner.done)]
    inside = [one for one in moves if since * total <= one.done <= until * total]
    if len(inside) > 2 and inside[-1].done == total:
        inside.pop()
    if len(inside) < 2:
        raise ValueError(f"too few moves were seen to know a pace: {len(inside)}")
    return (inside[-1].done - inside[0].done) / (inside[-1].at - inside[0].at)
