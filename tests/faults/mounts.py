"""Real file systems of a test's own: a small one to fill, a folder that can be unmounted. They need root on Linux."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[None]:
    """A file system in memory, of so many bytes (as mount's `size=` has it), for as long as the context lasts."""
    with _mounted(folder, ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]):
        yield


@contextmanager
def bound(source: Path, folder: Path) -> Iterator[None]:
    """The folder `source`, seen at `folder` too."""
    with _mounted(folder, ["--bind", str(source)]):
        yield


@contextmanager
def _mounted(folder: Path, what: list[str]) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *what, str(folder)], capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        why = f"nothing can be mounted here, which needs root: {done.stderr.strip()}"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    try:
        yield
    finally:
        # Lazily: a process that still has a file of it open must not keep it mounted.
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=30)
