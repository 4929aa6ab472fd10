"""A dead letter is the record as it came, and why."""

from __future__ import annotations

from stream_worker.dead_letters import PREFIX, dead_letter
from stream_worker.errors import Reason, RecordFault
from stream_worker.events import utc_now
from stream_worker.records import Received


def test_bytes_and_headers_are_kept_and_the_reason_is_added() -> None:
    record = Received("images", 3, 42, 0, b"\x00key", b"\xff\xfe", (("traceparent", b"00-abc"), ("twice", b"1")))
    now = utc_now()
    letter = dead_letter(record, RecordFault(Reason.TOO_LARGE, "x" * 5000), "detector", 2, now, now)
    assert (letter.topic, letter.key, letter.value) == ("dead-letters", b"\x00key", b"\xff\xfe")
    assert letter.headers[:2] == record.headers
    added = dict(letter.headers[2:])
    assert added[PREFIX + "reason"] == b"too_large"
    assert (added[PREFIX + "topic"], added[PREFIX + "partition"], added[PREFIX + "offset"]) == (b"images", b"3", b"42")
    assert added[PREFIX + "attempts"] == b"2"
    assert len(added[PREFIX + "message"]) == 1000
