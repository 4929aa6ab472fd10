"""How long each phase of an object takes: clocks around upstream's methods, which stay as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

METHODS = {
    "compute_pointmap": "pointmap",
    "preprocess_image": "preprocess",
    "get_condition_input": "condition",
    "sample_sparse_structure": "stage1",
    "sample_slat": "stage2",
    "decode_slat": "decode",
    "postprocess_slat_output": "postprocess",
}
"""Of upstream's pipeline (inference_pipeline.py and inference_pipeline_pointmap.py), and what each is called here.

`condition` runs inside both stages: its time is taken out of theirs."""


class Phases:
    """The seconds of one object, phase by phase. A GPU works behind the program's back: each clock waits for it."""

    def __init__(self, pipeline: Any, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._seconds: dict[str, float] = {}
        self._within: list[float] = []
        for method, phase in METHODS.items():
            setattr(pipeline, method, self._clocked(getattr(pipeline, method), phase))

    def start(self) -> None:
        """A new object."""
        self._seconds = {}

    def times(self) -> dict[str, float]:
        """Seconds so far, of every phase that there was."""
        return {f"{phase}_s": round(seconds, 4) for phase, seconds in self._seconds.items()}

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Clock a block. A phase within a phase counts for itself only."""
        self._synchronize()
        began = time.perf_counter()
        self._within.append(0.0)
        try:
            yield
        finally:
            self._synchronize()
            took, inner = time.perf_counter() - began, self._within.pop()
            if self._within:
                self._within[-1] += took
            self._seconds[phase] = self._seconds.get(phase, 0.0) + took - inner

    def _clocked(self, method: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @wraps(method)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            with self.of(phase):
                return method(*args, **kwargs)

        return clocked
