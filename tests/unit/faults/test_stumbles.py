"""What the logs tell of models that crashed or hung."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.faults.profiles import TASK_TIMEOUT_S
from tests.faults.stumbles import MODEL, stumbles

BEGAN = 1_795_000_000.0  # 2026-11-18T11:06:40Z


def line(event: str, second: int, **fields: Any) -> str:
    return json.dumps({"event": event, "timestamp": f"2026-11-18T11:06:{40 + second}.500000Z", **fields})


def test_each_attempt_that_a_model_did_not_survive(tmp_path: Path) -> None:
    (tmp_path / "reconstructor-1.log").write_text(
        "\n".join(
            [
                line("attempt failed", 9, reason="model_timeout"),
                line("record failed", 12, reason="model_crashed"),
                line("record failed", 13, reason="reconstruct_failed"),
                line("model ready", 14),
                "no JSON, from a library",
                "[1]",
                line("attempt failed", 15, reason="model_crashed")[:40],  # it was killed in the middle of a line
            ]
        )
    )
    (tmp_path / "detector-0.log").write_text(line("attempt failed", 10, reason="model_crashed"))
    found = [(one.kind, one.target, one.at, one.until) for one in stumbles(tmp_path, BEGAN)]
    assert found == [
        (MODEL, "reconstructor-1", 9.5 - TASK_TIMEOUT_S, 9.5),
        (MODEL, "detector-0", 10.5, 10.5),
        (MODEL, "reconstructor-1", 12.5, 12.5),
    ]
