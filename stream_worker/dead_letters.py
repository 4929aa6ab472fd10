"""Records that no retry can mend: kept byte for byte, with the reason in the headers."""

from __future__ import annotations

from datetime import datetime

from stream_worker.errors import RecordFault
from stream_worker.records import Output, Received
from stream_worker.topics import DEAD_LETTERS

PREFIX = "stream_worker.errors."
"""Header names in the manner of Kafka's KIP-1034."""


def dead_letter(
    record: Received, fault: RecordFault, stage: str, attempts: int, first_at: datetime, last_at: datetime
) -> Output:
    """The record as it came, key, value and headers, with `stream_worker.errors.*` headers added."""
    why = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "stage": stage,
        "reason": fault.reason.value,
        "message": fault.message[:1000],
        "attempts": str(attempts),
        "first_at": first_at.isoformat(),
        "last_at": last_at.isoformat(),
    }
    added = tuple((PREFIX + name, value.encode("utf-8", "replace")) for name, value in why.items())
    return Output(DEAD_LETTERS, record.key, record.value, record.headers + added)
