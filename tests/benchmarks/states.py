"""What a benchmark leaves behind: its figures as JSON, from which `page.py` writes the page."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from stream_worker import telemetry
from stream_worker.local_kafka import KAFKA_VERSION
from stream_worker.settings import Log

FOLDER = Path("runs/benchmarks")

State = dict[str, Any]
"""name, date, versions, machine, command and figures."""

_started = time.monotonic()


def tell(line: str) -> None:
    """A line of progress."""
    print(f"[{time.monotonic() - _started:6.1f} s] {line}", flush=True)


def quiet() -> None:
    """Only what matters: the lines of progress stand out. (aiokafka warns of each new topic without a leader.)"""
    telemetry.configure(Log(level="warning"), stage="benchmark")
    logging.getLogger("aiokafka").setLevel(logging.ERROR)


def parser(description: str | None, *, runs: int = 5) -> argparse.ArgumentParser:
    """With what every benchmark can be told."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, default=runs, help="the figures are the medians of these")
    made.add_argument("--states", type=Path, default=FOLDER, help="folder that the figures go to")
    return made


def save(folder: Path, name: str, figures: Mapping[str, Any]) -> State:
    """Keep a benchmark's figures, in place of those of its last time."""
    memory = psutil.virtual_memory().total / 2**30
    state = {
        "name": name,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": f"Python {platform.python_version()}, Apache Kafka {KAFKA_VERSION}, aiokafka {version('aiokafka')}",
        "machine": f"{psutil.cpu_count()} cores, {memory:.0f} GiB",
        "command": " ".join(["python -m", f"tests.benchmarks.{name}", *sys.argv[1:]]),
        "figures": dict(figures),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    return state


def load(folder: Path) -> dict[str, State]:
    """The newest state of each benchmark that has left one."""
    found = (json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json")))
    return {state["name"]: state for state in found}
