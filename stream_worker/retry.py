"""How often and when a record with a transient fault is tried again: pure policy."""

from __future__ import annotations

from dataclasses import dataclass

from stream_worker.errors import Reason

ONCE_MORE = frozenset({Reason.MODEL_TIMEOUT, Reason.MODEL_CRASHED})
"""A record that took the model's process down twice is poison: each further try would cost a model load."""

LONGEST_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retries` further attempts at most, after `first_delay_s` seconds, then twice as long each time."""

    retries: int
    first_delay_s: float

    def delay(self, reason: Reason, attempts: int) -> float | None:
        """Seconds to wait after so many failed attempts, before jitter; None: give the record up."""
        allowed = min(self.retries, 1) if reason in ONCE_MORE else self.retries
        if attempts > allowed:
            return None
        return min(LONGEST_DELAY_S, float(self.first_delay_s * 2.0 ** min(attempts - 1, 60)))
