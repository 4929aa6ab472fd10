"""A child process that dies with its parent, however the parent dies."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

# Runs in the child, before the program itself: ask the kernel for SIGKILL at the parent's death (1 is
# PR_SET_PDEATHSIG; it survives exec), then look whether the parent died before we could ask.
_SHIM = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def tied(argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` as a child which is killed when its parent ends.

    An interpreter of a few milliseconds stands before the program instead of a preexec_fn, which is unsafe in
    a process with threads. "Parent" is the *thread* that starts the child: start it from one that lasts.
    """
    return [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), *argv]


async def gone(pidfd: int, timeout_s: float | None) -> bool:
    """Wait for the end of the process behind a pidfd; False when it still lives after `timeout_s` seconds."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), timeout_s)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
