"""Progress as people see it, on a terminal and in a log."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from stream_worker.demo.progress import LINE_S, StageProgress
from stream_worker.demo.record import RunRecord
from tests.unit.demo.synthetic import Synthetic


def steps(tmp_path: Path, console: Console, seconds_a_step: float) -> None:
    """Show a run of two photos event by event."""
    made = Synthetic(tmp_path)
    made.room("a", 1, objects=3)
    made.room("b", 2, objects=0)
    seen, now = RunRecord("demo", made.record.photos), [0.0]
    events = [*made.record.manifests.values(), *made.record.objects.values(), *made.record.reconstructions.values()]
    with StageProgress(console, seen, lambda: now[0]) as progress:
        for event in [*events, *made.record.completed.values()]:
            seen.add(event)
            now[0] += seconds_a_step
            progress.update()


def test_without_a_terminal_there_are_few_lines(tmp_path: Path) -> None:
    out = io.StringIO()
    steps(tmp_path, Console(file=out, width=80), seconds_a_step=LINE_S / 50)
    lines = out.getvalue().splitlines()
    assert lines[0] == "images 0/2, objects 0/0, results 0/0, completed 0/2"
    assert lines[-1].startswith("images 2/2")
    assert lines[-1].endswith("completed 2/2")
    assert len(lines) == 2


def test_slow_progress_is_told_step_by_step_but_never_twice(tmp_path: Path) -> None:
    out = io.StringIO()
    steps(tmp_path, Console(file=out, width=80), seconds_a_step=2 * LINE_S)
    lines = out.getvalue().splitlines()
    assert len(lines) > 5
    assert len(set(lines)) == len(lines)


def test_a_terminal_gets_a_bar_a_stage(tmp_path: Path) -> None:
    out = io.StringIO()
    steps(tmp_path, Console(file=out, width=80, force_terminal=True, legacy_windows=False), seconds_a_step=0)
    last = out.getvalue().rpartition("images")[2]
    assert all(stage in last for stage in ("objects", "results", "completed"))
    assert "2 / 2" in last


def test_a_run_without_objects_ends_with_full_bars(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("empty", 2, objects=0)
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, legacy_windows=False, color_system=None)
    with StageProgress(console, made.record) as progress:
        progress.update()
    last = out.getvalue().rpartition("images")[2]
    assert last.count("0 / 0") == 2
    assert last.count("━" * 40) == 4
