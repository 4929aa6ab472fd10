"""Starts the workers, restarts what dies with back-off, and drains them at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from stream_worker import telemetry
from stream_worker.errors import Exit, UserError
from stream_worker.lifeline import tied
from stream_worker.readiness import VARIABLE, listen
from stream_worker.settings import Settings, environment

BACKOFF_S = (0.5, 60.0)
HEALTHY_S = 60.0
"""A worker that lived this long has earned a fresh back-off."""
KILL_S = 30.0
"""Beyond the drain, before SIGKILL."""
_MISTAKES = frozenset(Exit) - {Exit.OK, Exit.FAILED, Exit.FATAL}

log = telemetry.get(__name__)


@dataclass(slots=True)
class Worker:
    """One process to keep alive: `name` is unique; `command` follows `stream-worker`."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    starts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Keeps workers alive for as long as the context lasts; leaving it drains and ends them all."""

    def __init__(self, settings: Settings, workers: Sequence[Worker], log_dir: Path | None = None) -> None:
        """Workers log to `log_dir`/<name>.log, or where this process does."""
        self.workers = list(workers)
        self._settings = settings
        self._log_dir = log_dir
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sockets = contextlib.ExitStack()

    async def __aenter__(self) -> Supervisor:
        """Start every worker."""
        folder = Path(self._sockets.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-")))
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
        self._keepers = [asyncio.create_task(self._keep(worker, folder)) for worker in self.workers]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """SIGTERM to all, time to drain, SIGKILL to what is left."""
        self._stopping.set()
        for worker in self.workers:
            _signal(worker, signal.SIGTERM)
        if self._keepers:
            _done, late = await asyncio.wait(self._keepers, timeout=self._settings.stage.drain_s + KILL_S)
            for worker in self.workers:
                if late and worker.pid is not None:
                    log.warning("worker did not drain in time, killed", worker=worker.name)
                _signal(worker, signal.SIGKILL)
            await asyncio.wait(self._keepers)
        if self._failed.done():
            self._failed.exception()
        self._sockets.close()

    async def ready(self, timeout_s: float) -> None:
        """Wait until every worker is ready. Raises UserError where one can't be started, or the time is up."""

        async def all_ready() -> None:
            for worker in self.workers:
                await worker.ready.wait()

        waiting = asyncio.create_task(all_ready())
        await asyncio.wait({waiting, self._failed}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._failed.done():
            self._failed.result()
        if not all(worker.ready.is_set() for worker in self.workers):
            late = ", ".join(worker.name for worker in self.workers if not worker.ready.is_set())
            raise UserError(f"not ready after {timeout_s:.0f} s: {late} (see the logs)", Exit.FAILED)

    async def failed(self) -> None:
        """Wait for a worker that can't be started; raises its UserError."""
        await asyncio.shield(self._failed)

    async def _keep(self, worker: Worker, folder: Path) -> None:
        delay, longest = BACKOFF_S
        loop = asyncio.get_running_loop()
        transport, listener = await listen(folder / f"{worker.name}.sock", worker.ready.set)
        try:
            while not self._stopping.is_set():
                started = loop.time()
                code = await self._run(worker, folder / f"{worker.name}.sock")
                if self._stopping.is_set():
                    return
                await asyncio.sleep(0)  # what the worker said last may still be in the socket
                if code in _MISTAKES and not worker.ready.is_set():
                    # Trying again would not mend it: somebody must.
                    if not self._failed.done():
                        self._failed.set_exception(UserError(f"{worker.name}: {listener.status}", Exit(code)))
                    return
                if loop.time() - started > HEALTHY_S:
                    delay = BACKOFF_S[0]
                log.warning("worker ended, restarting", worker=worker.name, code=code, restart_in_s=round(delay, 1))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._stopping.wait()
                delay = min(2 * delay, longest)
        finally:
            transport.close()

    async def _run(self, worker: Worker, channel: Path) -> int:
        """One life of a worker; its exit code."""
        with self._output(worker) as output:
            process = await asyncio.create_subprocess_exec(
                *tied([sys.executable, "-m", "stream_worker", *worker.command]),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment(self._settings), **worker.env, VARIABLE: str(channel)},
                start_new_session=True,  # Ctrl-C is ours to hear; the workers are told by SIGTERM
            )
        worker.pid = process.pid
        worker.starts += 1
        log.info("worker started", worker=worker.name, pid=process.pid)
        if self._stopping.is_set():
            _signal(worker, signal.SIGTERM)
        code = await process.wait()
        worker.pid = None
        return code

    @contextlib.contextmanager
    def _output(self, worker: Worker) -> Iterator[IO[bytes] | None]:
        if self._log_dir is None:
            yield None
            return
        with (self._log_dir / f"{worker.name}.log").open("ab") as file:
            yield file


def _signal(worker: Worker, number: signal.Signals) -> None:
    if worker.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)
