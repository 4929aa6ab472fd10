"""Who runs in a data folder: the folder's lock, the record of its broker, and the broker's end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from stream_worker.errors import Exit, UserError
from stream_worker.lifeline import gone
from stream_worker.local_kafka.ports import HOST


@dataclass(frozen=True)
class BrokerStatus:
    """A local broker that runs."""

    pid: int
    started: int  # the process's start, in clock ticks since the machine's: a reused pid differs in it
    port: int
    daemon: bool

    @property
    def bootstrap_servers(self) -> str:
        """What a client connects to."""
        return f"{HOST}:{self.port}"


def status(data_dir: Path) -> BrokerStatus | None:
    """The broker that runs with this folder, foreground or daemon; None where there is none."""
    try:
        state = BrokerStatus(**orjson.loads((data_dir / "broker.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return state if _start_ticks(state.pid) == state.started else None


async def stop_daemon(data_dir: Path, timeout_s: float = 30.0) -> bool:
    """Stop the broker of this folder, whoever started it; False where none runs."""
    state = status(data_dir)
    if state is None:
        return False
    await end(state.pid, timeout_s, lambda: status(data_dir) == state)
    return True


def remember(data_dir: Path, pid: int, port: int, *, daemon: bool) -> None:
    """Write down which process is this folder's broker."""
    state = BrokerStatus(pid, _start_ticks(pid) or 0, port, daemon)
    scratch = data_dir / "broker.json.new"
    scratch.write_bytes(orjson.dumps(asdict(state)))
    scratch.rename(data_dir / "broker.json")


def lock(data_dir: Path) -> int:
    """The folder's lock, as a file descriptor. The broker inherits it, and so holds it while it lives."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UserError(f"data folder {data_dir} can't be used: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        other = status(data_dir)
        who = f" (pid {other.pid}, {other.bootstrap_servers})" if other else ""
        raise UserError(f"Kafka already runs in {data_dir}{who}", Exit.FAILED) from None
    return handle


async def end(pid: int, timeout_s: float, same: Callable[[], bool] = lambda: True) -> None:
    """SIGTERM, and SIGKILL at the deadline, to a process that `same` still knows once it can't be mistaken."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not same():
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not await gone(pidfd, timeout_s):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await gone(pidfd, 10)
    finally:
        os.close(pidfd)


def _start_ticks(pid: int) -> int | None:
    """When a process was started (field 22 of /proc/<pid>/stat); None for one that is gone or a zombie.

    Not psutil's create_time: that is reckoned from the boot time, which moves when the clock is set.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
