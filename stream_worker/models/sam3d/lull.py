"""The time in which the GPU works and the host waits: for the host's work on the objects before and after.

Python runs one thread at a time. What another thread does while the main one starts kernels, as fast as it can, is
taken from the GPU. Stage 1 is another matter, once it is conditioned: its passes are CUDA graphs, and the host waits.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

LONGEST_S = 5.0
"""Of a wait: whatever became of the object in work, the next one is made ready."""

HANDOVER_S = 0.05
"""Within which the next object of a backlog comes to work."""

SWITCH_S = 0.0005
"""Python's own 0.005 is as long as hundreds of kernels take to start."""


class Lull:
    """Watches upstream's pipeline for it."""

    def __init__(self, pipeline: Any) -> None:
        sys.setswitchinterval(SWITCH_S)
        self._busy = threading.Event()
        self._free = threading.Event()
        self._free.set()
        condition, stage1 = pipeline.get_condition_input, pipeline.sample_sparse_structure

        @wraps(condition)
        def conditioned(*args: Any, **kwargs: Any) -> Any:
            found = condition(*args, **kwargs)
            if self._in_stage1:
                self._free.set()
            return found

        @wraps(stage1)
        def sampled(*args: Any, **kwargs: Any) -> Any:
            self._in_stage1 = True
            try:
                return stage1(*args, **kwargs)
            finally:
                self._in_stage1 = False
                self._free.clear()

        self._in_stage1 = False
        pipeline.get_condition_input, pipeline.sample_sparse_structure = conditioned, sampled

    def wait(self, handover_s: float = 0.0) -> None:
        """Return when the host has time: no object comes to work within `handover_s`, or the one in work is in stage 1.

        Called in other threads.
        """
        self._busy.wait(handover_s)
        self._free.wait(LONGEST_S)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around an object in work."""
        self._free.clear()
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()
            self._free.set()
