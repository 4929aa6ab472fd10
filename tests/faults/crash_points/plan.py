"""What is to happen to one worker: shots, one a life, and the note that each has been fired."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@dataclass(frozen=True, slots=True)
class Shot:
    """A signal that a worker sends to itself.

    `point`: where, such as `before commit` (see `hooks.py`). `commits`: how many transactions with outputs this life
    must have committed before, in every lane: a lane that has none in life after life is suspected, and rightly.
    The `nth` pass of the point from there on is the one. `outputs`: how many outputs the transaction must have, at
    least; `topic`: one of those that it must write to. `key`: of the record that is processed, where it must be a
    certain one.
    """

    point: str
    nth: int = 1
    commits: int = 0
    outputs: int = 0
    topic: str | None = None
    key: str | None = None
    signal: int = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Plan:
    """The shots of one worker, in a file; a second file keeps which of them were fired."""

    file: Path

    @classmethod
    def written(cls, file: Path, shots: Sequence[Shot]) -> Plan:
        """A new plan."""
        file.write_text(json.dumps([asdict(shot) for shot in shots]))
        return cls(file)

    def environment(self) -> Mapping[str, str]:
        """The variables that a worker needs. The root stands before what the interpreter has installed of us."""
        return {"CRASH_PLAN": str(self.file), "PYTHONPATH": f"{HERE}:{ROOT}"}

    def shots(self) -> list[Shot]:
        """All shots."""
        return [Shot(**fields) for fields in json.loads(self.file.read_text())]

    def fired(self) -> list[Shot]:
        """The shots that were fired so far: the first ones of the plan."""
        return self.shots()[: len(self._notes().read_bytes())] if self._notes().exists() else []

    def next(self) -> Shot | None:
        """The shot of the life that begins now."""
        left = self.shots()[len(self.fired()) :]
        return left[0] if left else None

    def note(self) -> None:
        """The shot of this life is being fired. What is written survives the process, though not the machine."""
        with self._notes().open("ab") as file:
            file.write(b"x")

    def age_s(self) -> float:
        """How long ago the last shot was fired, seconds."""
        return time.time() - self._notes().stat().st_mtime

    def _notes(self) -> Path:
        return self.file.with_suffix(".fired")
