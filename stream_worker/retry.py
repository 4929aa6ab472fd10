"""How often and when something is tried again: pure policy, no clock and no chance of its own."""

from __future__ import annotations

from dataclasses import dataclass

from stream_worker.errors import Reason

ONCE_MORE = frozenset({Reason.MODEL_TIMEOUT, Reason.MODEL_CRASHED})
"""A record that took the model's process down twice is poison: each further try would cost a model load."""

LONGEST_DELAY_S = 60.0

OUTAGE_DELAY_S = (0.2, 10.0)
"""First and longest wait between two looks at something of ours that is away."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`retries` further attempts at most, after `first_delay_s` seconds, then twice as long each time.

    No attempt begins later than `deadline_s` after the first one began.
    """

    retries: int
    first_delay_s: float
    deadline_s: float

    def delay(self, reason: Reason, attempts: int, elapsed_s: float) -> float | None:
        """Seconds to wait after so many failed attempts, before jitter; None: give the record up.

        `elapsed_s`: since the first attempt began.
        """
        allowed = min(self.retries, 1) if reason in ONCE_MORE else self.retries
        if attempts > allowed or elapsed_s >= self.deadline_s:
            return None
        return min(LONGEST_DELAY_S, self.deadline_s - elapsed_s, self.first_delay_s * 2.0 ** min(attempts - 1, 60))


def outage_delay(waits: int) -> float:
    """Seconds to wait, before jitter, when there were so many waits for this outage before: for ever, if need be."""
    first, longest = OUTAGE_DELAY_S
    return min(longest, first * 2.0 ** min(waits, 60))


def jittered(delay_s: float, chance: float) -> float:
    """Half to one and a half times the delay, by `chance` in [0, 1): workers must not come back all at once."""
    return delay_s * (0.5 + chance)
