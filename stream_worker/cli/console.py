"""What all commands share: where they print, and how."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from rich.console import Console

out = Console()
err = Console(stderr=True)

LINE_S = 30.0


class Format(StrEnum):
    """How events are shown."""

    TABLE = "table"
    JSON = "json"


class Outcome(StrEnum):
    """How an image can end."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Do what a command has to do."""
    return asyncio.run(work)


def printable(text: str) -> str:
    """Without what a hostile id could do to a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, told how much of how much of a phase is done; where there is no terminal, a line at times."""
    if not err.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task("", total=None)

        def tell(phase: str, done: int, total: int) -> None:
            bars.update(task, description=phase, completed=done, total=total or None)

        yield tell


class _Lines:
    """Long work in a log: how far it is, twice a minute."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said_at >= LINE_S:
            self._said_at = now
            err.print(f"{phase}: {done} of {total}", highlight=False, markup=False)
