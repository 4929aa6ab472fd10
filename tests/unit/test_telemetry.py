"""Logs: JSON lines with what is bound, and no flood of the same line."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

from stream_worker.telemetry import REPEAT_S, OncePerWhile


def line(number: int, text: str = "away") -> logging.LogRecord:
    return logging.LogRecord("aiokafka.conn", logging.WARNING, "conn.py", number, "%s", (text,), None)


def test_a_repeated_line_is_held_back_and_counted() -> None:
    now = 100.0
    once = OncePerWhile(lambda: now)
    assert [once.filter(line(1)) for _ in range(4)] == [True, False, False, False]
    assert once.filter(line(2)), "another line is another matter"
    now += REPEAT_S
    again = line(1, "still away")
    assert once.filter(again)
    assert again.getMessage() == "still away (and 3 more like it)"


def test_lines_are_json_and_a_librarys_flood_is_one_line() -> None:
    code = (
        "import logging; from stream_worker import telemetry; from stream_worker.settings import Log; "
        "telemetry.configure(Log(format='json'), stage='detector'); "
        "[logging.getLogger('aiokafka.conn').error('broker %s away', n) for n in range(50)]; "
        "telemetry.get('ours').warning('odd', image_id='a\\nb\\x1b[31m')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    flood, ours = (json.loads(text) for text in done.stderr.splitlines())
    assert flood["event"] == "broker 0 away"
    assert (ours["event"], ours["stage"], ours["image_id"]) == ("odd", "detector", "a\nb\x1b[31m")
    assert "\x1b" not in done.stderr
