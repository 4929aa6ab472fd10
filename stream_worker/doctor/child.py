"""A program for a model's interpreter, run to its end in a process of its own: one that hangs is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from stream_worker.lifeline import tied
from stream_worker.models.environment import child_environment, compute_limits
from stream_worker.settings import ModelProcess

GONE_S = 2.0
"""A process that is stuck in a driver can't be killed; it is not waited for."""


async def answer(section: ModelProcess, program: str, arguments: Sequence[str], limit_s: float) -> dict[str, Any]:
    """The JSON that the program prints last, in the environment that a model has; or what went wrong, as `fault`."""
    python = section.python or sys.executable
    environment = child_environment(
        os.environ,
        compute_limits(threads=section.threads, device=section.device),
        same_interpreter=section.python is None,
    )
    process = await asyncio.create_subprocess_exec(
        *tied([python, "-c", program, *arguments]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit_s):
            said, complaint = await process.communicate()
    except TimeoutError:
        return {"fault": f"no answer within {limit_s:.0f} s"}
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), GONE_S)
    try:
        found = json.loads(said.splitlines()[-1])
    except (IndexError, ValueError):
        found = None
    if isinstance(found, dict):
        return found
    last = (complaint.decode(errors="replace").strip().splitlines() or ["without a word"])[-1]
    return {"fault": f"{python} ended with code {process.returncode}: {last[:300]}"}
