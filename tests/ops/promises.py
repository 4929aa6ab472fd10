"""What every way of deploying the service must keep: real settings, real commands, time to drain, no secrets."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.main import get_command

from stream_worker.cli import app
from stream_worker.settings import ENV_PREFIX, Settings, load
from stream_worker.supervisor import KILL_S

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"

NOT_OURS = {"AWS_SHARED_CREDENTIALS_FILE", "CUDA_VISIBLE_DEVICES", "HOME", "TORCHINDUCTOR_CACHE_DIR"}
"""What workers are given beside settings."""

_SECRET_NAME = re.compile(r"(passw|secret|token|private|access_?key|credential)", re.IGNORECASE)
_SECRET_PLACE = re.compile(r"^(/run/secrets/|/etc/stream-worker/|%d/)")
_SECRET_VALUE = re.compile(r"-----BEGIN|\bAKIA[0-9A-Z]{16}\b|\b(?=\w*[0-9])(?=\w*[A-Za-z])[A-Za-z0-9+/]{24,}={0,2}\b")


def settings(environment: Mapping[str, str]) -> Settings:
    """The settings of a worker with these variables alone. Fails where one is no setting, or a wrong one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    strange = {name for name in environment if not name.startswith(ENV_PREFIX)} - NOT_OURS
    assert not strange, f"what reads {strange}?"
    with mock.patch.dict(os.environ, {**kept, **environment}, clear=True):
        return load()


def require_command(arguments: Sequence[str]) -> str:
    """Fail unless `stream-worker` would take this command line; the command's name."""
    command: Any = get_command(app)
    rest, names = list(arguments), ["stream-worker"]
    while hasattr(command, "commands"):
        options = command.make_context(names[-1], rest, resilient_parsing=True)
        name, *rest = [*options._protected_args, *options.args]
        assert name in command.commands, f"no command {' '.join([*names[1:], name])}"
        names.append(name)
        command = command.commands[name]
    command.make_context(names[-1], rest)  # raises where an option or an argument is wrong
    return " ".join(names[1:])


def drain_s(chosen: Settings) -> float:
    """What a worker must be given from SIGTERM to SIGKILL: what our own supervisor gives it."""
    return chosen.stage.drain_s + KILL_S


def seconds(said: str) -> float:
    """Compose's and systemd's durations: 45s, 2m, 1m30s; without a unit, seconds."""
    parts = re.findall(r"([\d.]+)\s*(ms|s|m(?:in)?|h)?", said)
    return sum(
        float(number) * {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "": 1}[unit] for number, unit in parts
    )


def size(said: str | int) -> int:
    """Bytes: 512m, 2gb, 16Gi, 3G."""
    match = re.fullmatch(r"([\d.]+)\s*([kmgt]?)i?b?", str(said).strip(), re.IGNORECASE)
    assert match is not None, f"{said} is no size"
    return math.ceil(float(match[1]) * 1024 ** "_kmgt".index(match[2].lower() or "_"))


def require_no_secrets(where: str, text: str) -> None:
    """Fail where a text holds what looks like a key."""
    found = _SECRET_VALUE.search(text)
    assert found is None, f"{where}: {found[0][:12]}... looks like a secret" if found else ""


def require_secrets_by_file(environment: Mapping[str, Any]) -> None:
    """Fail where a variable that is named like a secret has anything but a place where a secret is mounted."""
    for name, value in environment.items():
        if _SECRET_NAME.search(name):
            assert _SECRET_PLACE.search(str(value)), f"{name} must be a file"


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every name with its value, however deep."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in items:
        yield str(name), each
        yield from walk(each)


def program(name: str, package: str) -> str:
    """The path of a program. Where it is not installed the test is skipped, but fails where CI is set."""
    path = shutil.which(name)
    if path is None:
        without(f"no {name} here ({package})")
    return str(path)


def without(why: str) -> None:
    """What a test does that can't run here."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def go(*arguments: str, folder: Path) -> str:
    """What the Go command prints; modules come from where it is set up to take them."""
    go_program = program("go", "1.24 or newer")
    done = subprocess.run([go_program, *arguments], cwd=folder, capture_output=True, text=True, timeout=280)
    if done.returncode != 0:
        without(f"go {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done.stdout
