"""When which fault is to come: data, drawn from the seed, so that a seed repeats it.

The kinds go on side by side, each in a track of its own rhythm: a step waits, then does its fault, then the next step
waits. What a seed can't repeat is the machine's timing, and with it who is alive when a step comes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Span = tuple[float, float]
"""Least and most, seconds."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A kind of fault, how long it lasts, and its weight among the kinds of its track."""

    kind: str
    lasts_s: Span = (0.0, 0.0)
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """A track: the pause before each of its faults, and what it chooses from."""

    pause_s: Span
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Wait `pause_s`, then do `kind` for `lasts_s` to whom `draw` (0 to 1) picks among those that can be hit."""

    pause_s: float
    kind: str
    lasts_s: float
    draw: float

    def pick(self, among: Sequence[str]) -> str | None:
        """Whom it hits."""
        return sorted(among)[int(self.draw * len(among))] if among else None


def schedule(seed: int, rhythms: Mapping[str, Rhythm], horizon_s: float) -> dict[str, list[Step]]:
    """The steps of every track, enough of them for `horizon_s`. A track's steps don't depend on the other tracks."""
    return {name: _track(random.Random(f"{seed}/{name}"), rhythm, horizon_s) for name, rhythm in rhythms.items()}


def _track(numbers: random.Random, rhythm: Rhythm, horizon_s: float) -> list[Step]:
    steps: list[Step] = []
    passed = 0.0
    while passed < horizon_s:
        (choice,) = numbers.choices(rhythm.choices, [one.weight for one in rhythm.choices])
        step = Step(
            pause_s=round(numbers.uniform(*rhythm.pause_s), 2),
            kind=choice.kind,
            lasts_s=round(numbers.uniform(*choice.lasts_s), 2),
            draw=round(numbers.random(), 4),
        )
        passed += max(0.1, step.pause_s + step.lasts_s)
        steps.append(step)
    return steps
