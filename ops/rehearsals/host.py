"""A host to rehearse on: a real systemd as PID 1 of namespaces of its own, with the units of ops/systemd.

Its /etc, /var, /run, /tmp and /opt are its own and go with it; the network is this machine's. Needs root, Linux and
systemd's program; no container engine. cgroup limits (MemoryMax=, CPUQuota=, TasksMax=) hold only where this machine
has their controllers in cgroup 2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from stream_worker.lifeline import tied

ROOT = Path(__file__).parents[2]
BOOT = Path(__file__).with_name("boot.sh")
SYSTEMD = Path("/lib/systemd/systemd")
NAMESPACES = "--pid --fork --kill-child --mount --mount-proc --uts --ipc --cgroup"
BOOT_S = 60.0


class RehearsalError(Exception):
    """Something was not as the units promise."""


def missing() -> str | None:
    """Why there can be no such host here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a systemd of our own needs Linux and root"
    programs = [name for name in ("unshare", "nsenter", "systemctl", "systemd-sysusers") if shutil.which(name) is None]
    if programs or not SYSTEMD.exists():
        return f"not here: {', '.join(programs) or SYSTEMD} (Debian: apt-get install systemd util-linux)"
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "--cgroup", "true"], capture_output=True, text=True
    )
    return None if tried.returncode == 0 else f"no namespaces to be had: {tried.stderr.strip()}"


class Host:
    """The host, up for as long as the context lasts; it dies with the thread that boots it.

    `files` are there from the beginning: path -> (mode, content).
    """

    def __init__(self, files: Mapping[str, tuple[int, str]]) -> None:
        self._files = files
        self._stage = Path(tempfile.mkdtemp(prefix="stream-worker-host-"))
        self._group = _cgroups() / f"stream-worker-host-{os.getpid()}"
        self._unshare: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Self:
        """Boot it. Raises RehearsalError where it does not come up."""
        try:
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, *command: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
        """Run a program on the host, as its root."""
        inside = ["nsenter", f"--target={self._init}", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--"]
        return subprocess.run(
            [*inside, *command], capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, cwd="/"
        )

    def systemctl(self, *arguments: str, timeout_s: float = 600.0) -> str:
        """What systemctl prints. Raises RehearsalError, with the units' logs, where it fails."""
        done = self.run("systemctl", *arguments, timeout_s=timeout_s)
        if done.returncode != 0:
            said = f"{done.stdout}{done.stderr}".strip()
            raise RehearsalError(f"systemctl {' '.join(arguments)}: {said}\n{self.logs()}")
        return done.stdout.strip()

    def show(self, unit: str, *properties: str) -> tuple[str, ...]:
        """Properties of a unit, as systemd has them."""
        said = self.systemctl("show", unit, *(f"--property={name}" for name in properties))
        found = dict(line.partition("=")[::2] for line in said.splitlines())
        return tuple(found[name] for name in properties)

    def write(self, path: str, content: str, mode: int = 0o644) -> None:
        """Put a file on the host."""
        script = 'umask 077; mkdir -p -m 755 "$(dirname "$1")"; printf %s "$2" >"$1"; chmod "$3" "$1"'
        done = self.run("sh", "-c", script, "sh", path, content, f"{mode:o}")
        if done.returncode != 0:
            raise RehearsalError(f"{path} can't be written: {done.stderr.strip()}")

    def logs(self, lines: int = 12) -> str:
        """The last lines that each unit wrote."""
        return self.run("sh", "-c", 'cd /run/logs && tail -v -n "$1" -- *', "sh", str(lines)).stdout

    def _boot(self) -> None:
        self._group.mkdir()
        interpreter = Path(sys.executable).resolve().name
        arguments = [self._stage, sys.base_prefix, sysconfig.get_path("purelib"), ROOT, interpreter]
        # First into a cgroup of its own: the namespace's root is where it is made from.
        enter = f'echo $$ >"$0/cgroup.procs"; exec unshare {NAMESPACES} "$@"'
        log = (self._stage.parent / f"{self._stage.name}.log").open("w+b")
        with log:
            self._unshare = subprocess.Popen(
                tied(["sh", "-c", enter, str(self._group), "sh", str(BOOT), *map(str, arguments)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            deadline = time.monotonic() + BOOT_S
            while not self._up():
                if self._unshare.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RehearsalError(f"the host did not boot: {log.read().decode(errors='replace').strip()}")
                time.sleep(0.1)
        for path, (mode, content) in self._files.items():
            self.write(path, content, mode)

    def _up(self) -> bool:
        assert self._unshare is not None
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        with contextlib.suppress(OSError, IndexError):
            self._init = int(children.read_text().split()[0])
            if Path(f"/proc/{self._init}/comm").read_text().strip() == "systemd":
                return self.run("systemctl", "is-system-running").stdout.strip() == "running"
        return False

    def _end(self) -> None:
        if self._init:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)  # PID 1 takes all others of its namespace along
        if self._unshare is not None:
            if not self._init:
                self._unshare.kill()
            self._unshare.wait()
        self._stage.rmdir()
        (self._stage.parent / f"{self._stage.name}.log").unlink(missing_ok=True)
        deadline = time.monotonic() + 10
        while self._group.exists() and time.monotonic() < deadline:
            for folder in sorted(self._group.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    folder.rmdir()
            with contextlib.suppress(OSError):
                self._group.rmdir()
                return
            time.sleep(0.1)


def _cgroups() -> Path:
    """Where this machine has cgroup 2."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, folder, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(folder)
    raise RehearsalError("no cgroup 2 on this machine")
