"""The page of results: what it must not hide."""

from __future__ import annotations

from typing import Any

from tests.faults.faults import KINDS
from tests.faults.results import page


def state(seed: int, *, broken: list[str] | None = None, missed: list[str] | None = None) -> dict[str, Any]:
    spread = {"kills": 4, "never": 0, "over": 0, "median_s": 7.0, "max_s": 9.0}
    images = {"accepted": 10, "terminal": 10, "missing": 0, "duplicated": 0}
    return {
        "seed": seed,
        "object_ms": 20,
        "publish_s": 1000.0,
        "restart_s": 12.0,
        "date": "2026-11-24",
        "versions": "Apache Kafka 4",
        "machine": "2 cores",
        "command": f"make faults SEED={seed}",
        "logs": f"/runs/{seed}/logs",
        "broken": broken or [],
        "missed": missed or [],
        "figures": {
            "events": 12,
            "images": 10,
            "objects": 30,
            "seconds": 60,
            "nodes": 3,
            "landed": dict.fromkeys(KINDS, 2),
            "missed_steps": 1,
            "kills_in_work": 2,
            "kills_while_starting": 0,
            "live": 10,
            "fresh": 10,
            "audit": {"images": images, "blobs": {"missing": 0, "wrong": 0}, "dead_letters": {"images": {"x": 1}}},
            "drained_s": 20.0,
            "widest_gap_s": 3.0,
            "resumed": {"alone": spread, "beside": spread, "each": []},
            "memory": {"judged": 1, "spared": {"detector-0": [90.0, 91.0, 1.011]}, "most": [["d", False, 130, 1.011]]},
        },
    }


def test_every_seed_has_its_rows_and_a_good_run_no_section_of_failures() -> None:
    text = page([state(1), state(2)])
    assert text.count("| 1 |") >= 3
    assert text.count("| 2 |") >= 3
    assert text.count("exactly the expected outcomes") == 2
    assert "FAILED" not in text
    assert "## What failed" not in text
    assert all(len(row.split("|")) == len(head.split("|")) for head, row in tables(text))


def test_a_failure_is_named_with_its_seed_its_logs_and_how_to_repeat_it() -> None:
    text = page([state(1), state(2, broken=["live reader: 1 outcomes missing"]), state(3, missed=["lag 0 None s"])])
    assert "| FAILED |" in text
    assert "seed 2 (`make faults SEED=2`, logs: `/runs/2/logs`)" in text
    assert "live reader: 1 outcomes missing" in text
    assert "lag 0 None s" in text


def test_a_run_that_broke_off_is_not_hidden_either() -> None:
    gone = state(4, broken=["the run ended with TimeoutError: x"]) | {"figures": None}
    assert "the run ended with TimeoutError: x" in page([gone])
    assert "the run ended with TimeoutError: x" in page([state(1), gone])


def tables(text: str) -> list[tuple[str, str]]:
    lines = text.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("| ---")]
    return [(lines[number - 1], lines[number + 1]) for number in heads]
