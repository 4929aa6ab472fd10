"""Whether another process has this worker's name: a member that is thrown out sooner than silence could explain."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 3
"""Evictions in a row that no clock explains. One or two may be somebody's tool that removes members."""


@dataclass(slots=True)
class Evictions:
    """Follows the assignments of one static member.

    Two processes with one `group.instance.id` throw each other out in turn: the broker replaces the member's id each
    time, and aiokafka joins again under a new one. A member that was merely silent is thrown out too, but not before
    `patience_s` (the shorter of the session's and the rebalance's timeout) have passed since it was assigned
    something. Rebalances keep the member's id.
    """

    patience_s: float
    limit: int = LIMIT
    _member: str | None = None
    _assigned_at: float = 0.0
    _revoked_at: float | None = None
    _in_a_row: int = 0

    def revoked(self, now: float) -> None:
        """Everything was taken away at `now`, seconds of a monotonic clock."""
        self._revoked_at = now

    def assigned(self, member: str, now: float) -> bool:
        """Something was assigned to the member; whether another process must have its name."""
        held_s = (now if self._revoked_at is None else self._revoked_at) - self._assigned_at
        evicted = self._member is not None and member != self._member
        if held_s >= self.patience_s:
            self._in_a_row = 0
        elif evicted:
            self._in_a_row += 1
        self._member, self._assigned_at, self._revoked_at = member, now, None
        return self._in_a_row >= self.limit
