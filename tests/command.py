"""`stream-worker` as a person runs it: a process of its own, which can't touch what the tests' process has set up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stream_worker.errors import Exit
from stream_worker.settings import Settings

COMMAND = [sys.executable, "-m", "stream_worker"]


def environ(folder: Path, **settings: str) -> dict[str, str]:
    """The environment of a command: none of this one's settings, `settings` as variables, and a wide plain terminal."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAM_WORKER_")}
    local = {"STREAM_WORKER_LOCAL__DATA_DIR": str(folder / "data"), "COLUMNS": "300", "TERM": "dumb"}
    return {**kept, **local, **{f"STREAM_WORKER_{name}": value for name, value in settings.items()}}


def on(kafka: str, prefix: str) -> dict[str, str]:
    """The settings of a command that works with the topics of one test."""
    return {"KAFKA__BOOTSTRAP_SERVERS": kafka, "KAFKA__PREFIX": prefix, "KAFKA__PARTITIONS": "3"}


def beside(settings: Settings) -> dict[str, str]:
    """The settings of a command on the broker and the topics of `settings`."""
    return on(str(settings.kafka.bootstrap_servers), settings.kafka.prefix)


def stream_worker(
    folder: Path, *arguments: str, timeout_s: float = 60, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end in `folder`'s environment."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environ(folder, **settings),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


def require_mistake(done: subprocess.CompletedProcess[str], code: Exit, says: str) -> None:
    """Fail unless the command ended with `code` and one line that holds `says`."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert says in lines[0]
