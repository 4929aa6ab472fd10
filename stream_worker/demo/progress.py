"""Live progress: a bar for each stage on a terminal, and a line now and then everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from stream_worker.demo.record import RunRecord

LINE_S = 2.0
"""At most one line in this time where there is no terminal."""


class StageProgress:
    """Shows how far each stage of a run is. `update` when the record has news."""

    def __init__(self, console: Console, record: RunRecord, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._record = record
        self._clock = clock
        self._said, self._said_at = "", -LINE_S
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:>10}"),
                BarColumn(bar_width=40, complete_style="cyan", finished_style="green", pulse_style="cyan"),
                TextColumn("{task.fields[counts]:>9}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._tasks = {name: self._bars.add_task(name, total=None, counts="") for name in self._record.stages}
            self._bars.start()
        self.update()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.update(last=True)
        if self._bars is not None:
            self._bars.stop()

    def update(self, *, last: bool = False) -> None:
        """Show the record as it is now. The `last` call always shows, and settles what had no total."""
        stages = self._record.stages
        if self._bars is not None:
            # How many objects there are is not known before the last manifest.
            every_manifest = stages["images"].done == stages["images"].total
            for name, (done, total) in stages.items():
                known = every_manifest or last or name in ("images", "completed")
                nothing = known and total == 0  # a full bar: an empty one would look like work to come
                self._bars.update(
                    self._tasks[name],
                    completed=1 if nothing else done,
                    total=1 if nothing else total or None,
                    counts=f"{done} / {total}" if known else f"{done} / {total}+",
                )
            return
        line = ", ".join(f"{name} {done}/{total}" for name, (done, total) in stages.items())
        now = self._clock()
        if line != self._said and (last or now - self._said_at >= LINE_S):
            self._said, self._said_at = line, now
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
