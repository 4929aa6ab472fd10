"""Whose hands a partition has gone through, as the metadata of its committed offset tells it: pure logic.

Attempts must survive the death of the process that makes them: a record that kills its worker on every try would
otherwise be tried for ever. Writing each attempt down would cost a transaction each, so only what is suspicious is:

1. An owner marks the partition `open` when it takes it over, and closed again when it gives it up in order. An
   owner that finds it open knows that the one before died with it.
2. A death says little (somebody pulled a plug). But where owners die twice in a row while the partition has hardly
   moved, one of the records in hand may be what kills them. From then on fewer are in hand at a time, an eighth after
   every further death: so a lane whose workers are merely shot again and again still gets on, and a culprit is
   cornered by the logarithm of what a lane holds.
3. Where that leaves one, it is tried `alone` in its process, and that is marked before it begins. A record that was
   alone in work when worker after worker died is the culprit.

All of it is written with offsets that do not move, or in the transaction that moves them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

CRASHES = 2
"""Owners that died in a row, before fewer records are in hand."""
FEWER = 8
"""By this factor, after each further death."""


@dataclass(frozen=True, slots=True)
class Custody:
    """What is known of one partition."""

    is_open: bool = False
    """An owner has it, or died with it."""
    crashes: int = 0
    """Owners that died with it since it was at offset `since`."""
    since: int = 0
    alone: int = 0
    """Attempts begun at the record at the committed offset, alone in their process."""

    @classmethod
    def read(cls, metadata: str | None) -> Custody:
        """What the metadata says; that of another writer (a tool that moved the offset) says nothing."""
        try:
            value = orjson.loads(metadata or "")
            found = cls(bool(value["open"]), int(value["crashes"]), int(value["since"]), int(value["alone"]))
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
            return cls()
        return found if min(found.crashes, found.since, found.alone) >= 0 else cls()

    def written(self) -> str:
        """The metadata that says this."""
        value = {"open": self.is_open, "crashes": self.crashes, "since": self.since, "alone": self.alone}
        return orjson.dumps(value).decode()

    def taken_over(self, offset: int) -> Custody:
        """A new owner has it, at this offset."""
        if not self.is_open:
            return replace(self, is_open=True)
        return replace(self, crashes=self.crashes + 1, since=self.since if self.crashes else offset)

    def closed(self) -> Custody:
        """Its owner gives it up in order; what it suspects, the next one should know."""
        return replace(self, is_open=False)

    def moved(self, offset: int, reach: int) -> Custody:
        """It goes on at this offset; beyond `reach` records all that could have been in hand at the death are done."""
        if not self.crashes or offset >= self.since + reach:
            return Custody(is_open=self.is_open)
        return replace(self, alone=0)

    def begun(self) -> Custody:
        """An attempt at the next record begins, alone."""
        return replace(self, alone=self.alone + 1)

    def undone(self) -> Custody:
        """... and was taken back: its owner lives."""
        return replace(self, alone=max(0, self.alone - 1))

    @property
    def suspicious(self) -> bool:
        """Whether one of the next records may be what kills workers."""
        return self.crashes >= CRASHES

    def together(self, limit: int) -> int:
        """How many records may be in work at a time, of `limit` where nothing is suspected. One is to be alone."""
        if not self.suspicious:
            return limit
        share: int = FEWER ** min(self.crashes - 1, 32)
        return max(1, limit // share)
