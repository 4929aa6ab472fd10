"""When the clock next matters to which image: a queue in which an image has one place, and may change it."""

from __future__ import annotations

from datetime import datetime
from heapq import heapify, heappop, heappush

Key = tuple[str, str]
"""image_id, run"""

_FEW = 64


class Appointments:
    """The earliest first. What was moved or cancelled stays in the heap for a while, void, but never outnumbers
    what counts by more than `_FEW`: a deadline in a week must not hold on to an image that is done with today."""

    def __init__(self) -> None:
        self._at: dict[Key, datetime] = {}
        self._heap: list[tuple[datetime, Key]] = []

    def __len__(self) -> int:
        """Entries in memory, void ones included."""
        return len(self._heap)

    def set(self, key: Key, at: datetime) -> None:
        """Give the image this appointment instead of the one that it may have."""
        if self._at.get(key) != at:
            self._at[key] = at
            heappush(self._heap, (at, key))
            self._sweep()

    def cancel(self, key: Key) -> None:
        """Take the image's appointment away, if it has one."""
        if self._at.pop(key, None) is not None:
            self._sweep()

    def first(self) -> tuple[datetime, Key] | None:
        """The earliest appointment."""
        while self._heap and self._is_void(self._heap[0]):
            heappop(self._heap)
        return self._heap[0] if self._heap else None

    def due(self, now: datetime) -> Key | None:
        """Take the earliest appointment out, if its time has come."""
        first = self.first()
        if first is None or first[0] > now:
            return None
        heappop(self._heap)
        del self._at[first[1]]
        return first[1]

    def _is_void(self, entry: tuple[datetime, Key]) -> bool:
        at, key = entry
        return self._at.get(key) != at

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._at) + _FEW:
            self._heap = [(at, key) for key, at in self._at.items()]
            heapify(self._heap)
