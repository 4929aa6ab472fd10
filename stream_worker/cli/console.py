"""What all commands share: where they print, and how."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

from rich.console import Console

out = Console()
err = Console(stderr=True)


class Format(StrEnum):
    """How events are shown."""

    TABLE = "table"
    JSON = "json"


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Do what a command has to do."""
    return asyncio.run(work)


def printable(text: str) -> str:
    """Without what a hostile id could do to a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
