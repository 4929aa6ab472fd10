"""The page for whoever is on call tells of every reason, and of every header of a dead letter."""

from __future__ import annotations

import re
from pathlib import Path

from stream_worker.dead_letters import PREFIX, dead_letter
from stream_worker.errors import Reason, RecordFault
from stream_worker.events import utc_now
from stream_worker.records import Received

PAGE = (Path(__file__).parents[2] / "ops" / "failures.md").read_text(encoding="utf-8")


def test_the_reasons_are_the_closed_list() -> None:
    section = PAGE.split("## Reason codes")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` ", section, re.MULTILINE) == [reason.value for reason in Reason]


def test_the_headers_of_a_dead_letter_are_those_that_are_written() -> None:
    section = PAGE.split("## A dead letter")[1].split("\n## ")[0]
    record = Received("images", 0, 0, 0, b"key", b"value")
    letter = dead_letter(record, RecordFault(Reason.TOO_LARGE, "why"), "detector", 1, utc_now(), utc_now())
    written = [name.removeprefix(PREFIX) for name, _ in letter.headers]
    assert re.findall(r"`(\w+)`", section) == written
