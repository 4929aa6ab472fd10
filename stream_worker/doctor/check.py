"""What a check finds, and how long it may take to find it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How it is with what was looked at."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


class Part(StrEnum):
    """What is to run here, by the name of its role in `security.acl`."""

    DETECTOR = "detector"
    RECONSTRUCTOR = "reconstructor"
    AGGREGATOR = "aggregator"
    PUBLISHER = "publisher"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `seen` is what there is, or why nothing was looked at; `do` is what to do about it."""

    check: str
    state: State
    seen: str
    do: str = ""


def ok(check: str, seen: str) -> Finding:
    return Finding(check, State.OK, seen)


def warning(check: str, seen: str, do: str) -> Finding:
    """The service runs with it, but worse than it could, or not for long."""
    return Finding(check, State.WARNING, seen, do)


def failed(check: str, seen: str, do: str) -> Finding:
    """The service does not run, or not rightly, with it."""
    return Finding(check, State.FAILED, seen, do)


def not_checked(check: str, why: str, do: str = "") -> Finding:
    return Finding(check, State.NOT_CHECKED, why, do)


async def within(check: str, limit_s: float, work: Awaitable[list[Finding]]) -> list[Finding]:
    """What a check finds. One that takes too long, or that fails itself, is a finding too, and costs no other's."""
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        return [failed(check, f"no answer within {limit_s:.0f} s", "see whether what it asks hangs or is overloaded")]
    except Exception as error:  # noqa: BLE001  # the others are to be told all the same
        # Its text may hold anything: what was asked for, and with which secret.
        seen = f"the check itself failed ({type(error).__name__})"
        return [failed(check, seen, "report it, with the settings of `stream-worker config`")]


def holds(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.state is not State.FAILED for finding in findings)


def plain(findings: Iterable[Finding]) -> dict[str, Any]:
    """The findings for machines."""
    listed = list(findings)
    return {"ok": holds(listed), "findings": [asdict(finding) for finding in listed]}
