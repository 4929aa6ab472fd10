"""What went wrong with models in a run, as the workers' logs tell it: poison that crashes or hangs them, and our kills.

Poison is drawn by the plan, and when it comes up is not in the log of faults. But it is a fault: while it is being
dealt with, its group is no measure of how soon a killed worker's partitions resume.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from stream_worker.errors import Reason
from tests.faults.faults import Hit
from tests.faults.profiles import TASK_TIMEOUT_S

MODEL = "model"
_LASTS_S = {Reason.MODEL_TIMEOUT.value: TASK_TIMEOUT_S, Reason.MODEL_CRASHED.value: 0.0}
_EVENTS = frozenset({"attempt failed", "record failed"})


def stumbles(logs: Path, began: float) -> list[Hit]:
    """Every attempt that a model's crash or hang ended, in the order of their ends. `began`: the run's 0, Unix time."""
    found = []
    for path in sorted(logs.glob("*.log")):
        for entry in _entries(path):
            lasted = _LASTS_S.get(str(entry.get("reason")))
            if entry.get("event") in _EVENTS and lasted is not None:
                at = round(datetime.fromisoformat(str(entry["timestamp"])).timestamp() - began, 2)
                found.append(Hit(MODEL, path.stem, round(at - lasted, 2), at, waiting=0))
    return sorted(found, key=lambda hit: hit.until)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are JSON objects: a killed process may have left half a line."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            yield entry
