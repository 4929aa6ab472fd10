"""Moments as a person names them, and the time between two."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stream_worker.errors import UserError

_AGO = re.compile(r"(\d{1,6})\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Window:
    """From `since` on, before `until`; None: without an end."""

    since: datetime | None = None
    until: datetime | None = None

    @property
    def whole(self) -> bool:
        """Whether it leaves nothing out."""
        return self.since is None and self.until is None

    def has(self, at_ms: int) -> bool:
        """Whether a moment (ms since 1970) is in it."""
        since, until = (None if one is None else one.timestamp() * 1000 for one in (self.since, self.until))
        return (since is None or since <= at_ms) and (until is None or at_ms < until)


def window(since: str | None, until: str | None, now: datetime) -> Window:
    """The window that a person means. Raises UserError where it is no time, or has no room."""
    chosen = Window(*(None if text is None else moment(text, now) for text in (since, until)))
    if chosen.since is not None and chosen.since >= (chosen.until or now):
        raise UserError(f"--from {since} is not before {'--to ' + until if until else 'now'}")
    return chosen


def moment(text: str, now: datetime) -> datetime:
    """ISO 8601, UTC where no zone is given, or how long ago: 90s, 30m, 2h, 7d. Raises UserError where it is neither."""
    try:
        if ago := _AGO.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise UserError(f"{text!r} is no time: want 2026-01-31T20:00 (UTC where no zone is given) or 2h") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
