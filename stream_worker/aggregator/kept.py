"""The state of lanes that were taken away, for as long as they may come back.

A rebalance takes every lane away from everybody, and gives most of them back to those who had them. To restore a lane
from the changelog takes time in which its images stand still, and the more of it the more images are in flight. So its
state is kept, and used again where the changelog shows that nobody else has had the lane: see `changelog.mark`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stream_worker.aggregator.join import Join


class KeptLanes:
    """What the lanes held when they were sealed.

    Args:
        for_s: how long a state is kept.
        changed: called when one was forgotten because its time was over.
    """

    def __init__(self, for_s: float, changed: Callable[[], None]) -> None:
        self._for_s = for_s
        self._changed = changed
        self._seals: dict[int, int] = {}
        self._joins: dict[int, Join] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._joins)

    def sealed(self, lane: int, barrier: int) -> None:
        """A barrier was written behind all that the lane has written."""
        self._seals[lane] = barrier

    def keep(self, lane: int, join: Join | None) -> None:
        """Keep what a lane held when it was sealed; with None forget that it was."""
        if join is None:
            self._forget(lane)
            return
        self._joins[lane] = join
        self._timers[lane] = asyncio.get_running_loop().call_later(self._for_s, self._over, lane)

    def take(self, lane: int, barrier: int) -> Join | None:
        """The state of a lane, and forget it. None where it is not known, or not true any more.

        Args:
            barrier: written when the lane was taken over. Right behind the seal, nobody has had the lane in between.
        """
        join = self._joins.get(lane) if barrier == self._seals.get(lane, barrier) + 1 else None
        self._forget(lane)
        return join

    def clear(self) -> None:
        """Forget all."""
        for lane in list(self._seals):
            self._forget(lane)

    def _over(self, lane: int) -> None:
        self._forget(lane)
        self._changed()

    def _forget(self, lane: int) -> None:
        self._seals.pop(lane, None)
        self._joins.pop(lane, None)
        timer = self._timers.pop(lane, None)
        if timer is not None:
            timer.cancel()
