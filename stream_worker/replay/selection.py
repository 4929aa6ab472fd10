"""Which images a replay is of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from stream_worker import topics
from stream_worker.errors import UserError
from stream_worker.events import LIVE, CompletedImageEvent
from stream_worker.window import Window

_OFFSETS = re.compile(r"(\d{1,9}):(\d{0,18})-(\d{0,18})")


class Source(StrEnum):
    """Where a replay begins."""

    IMAGES = "images"
    """Photos are fetched and detected again."""
    OBJECTS = "objects"
    """What was found stays; it is reconstructed again."""

    @property
    def topic(self) -> str:
        """The topic, one record an image, that says what there is: its times and offsets are those that are chosen."""
        return topics.IMAGES if self is Source.IMAGES else topics.DETECTIONS


@dataclass(frozen=True, slots=True)
class Offsets:
    """Of one partition: from `first` on, before `end`; None: to the end."""

    partition: int
    first: int = 0
    end: int | None = None

    @classmethod
    def parse(cls, text: str) -> Offsets:
        """`partition:from-to`, the last one with it; either may be left out. Raises UserError."""
        match = _OFFSETS.fullmatch(text.strip())
        if match is None:
            raise UserError(f"{text!r} names no offsets: want partition:from-to, such as 0:100-250 or 3:100-")
        first, last = (int(number) if number else None for number in match.groups()[1:])
        return cls(int(match[1]), first or 0, None if last is None else last + 1)

    def __contains__(self, place: tuple[int, int]) -> bool:
        partition, offset = place
        return partition == self.partition and self.first <= offset and (self.end is None or offset < self.end)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which images of which run; None and empty sets: all."""

    source: Source = Source.IMAGES
    run: str = LIVE
    window: Window = field(default_factory=Window)
    """When they were written to the source's topic."""
    offsets: Sequence[Offsets] = ()
    """Where they lie in the source's topic."""
    ids: frozenset[str] | None = None
    statuses: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    """Of the image, or of one of its objects."""
    labels: frozenset[str] = frozenset()
    """Of one of its objects."""

    @property
    def by_outcome(self) -> bool:
        """Whether it takes an image's outcome to know."""
        return bool(self.statuses or self.reasons or self.labels)

    def names(self, image_id: str, run: str, partition: int, offset: int) -> bool:
        """Whether this record of the source's topic is chosen, its outcome aside."""
        return (
            run == self.run
            and (self.ids is None or image_id in self.ids)
            and (not self.offsets or any((partition, offset) in one for one in self.offsets))
        )

    def has(self, outcome: CompletedImageEvent) -> bool:
        """Whether an image with this outcome is chosen."""
        why = [outcome.reason, *(one.reason for one in outcome.objects)]
        codes = {one.code for one in why if one is not None}
        labels = {one.label for one in outcome.objects}
        return (
            (not self.statuses or outcome.status in self.statuses)
            and (not self.reasons or not codes.isdisjoint(self.reasons))
            and (not self.labels or not labels.isdisjoint(self.labels))
        )
