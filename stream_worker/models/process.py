"""One spawned model process: its private pipes, its frames and its end. Replacing it is `keeper.py`'s part."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import structlog

import stream_worker
from stream_worker.models.bodies import Body
from stream_worker.models.environment import child_environment
from stream_worker.models.protocol import (
    PREFIX,
    Message,
    ProtocolError,
    pack,
    unpack_header,
    unpack_prefix,
)
from stream_worker.models.scratch import SHARED_MEMORY, ScratchFolder

_log = structlog.get_logger(__name__)

# `python -m stream_worker...` would need our site-packages on the path of an interpreter that has its own.
# So exactly one package is put into it, from where this file lies.
_BOOTSTRAP = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
sys.path[:] = [entry for entry in sys.path if entry]
folder = sys.argv.pop(1)
spec = spec_from_file_location("stream_worker", folder + "/__init__.py", submodule_search_locations=[folder])
package = sys.modules["stream_worker"] = module_from_spec(spec)
spec.loader.exec_module(package)
from stream_worker.models.child import main
sys.exit(main())
"""

LINGER_S = 2.0
"""How long one end of a dying child may outlive the other: its pipes its process, or the reverse."""

KILL_WAIT_S = 10.0
"""A process that SIGKILL has not ended by then (it waits in a driver) is left behind."""

STACKS_WAIT_S = 0.5
MAX_LINE_BYTES = 4096
_PIPE_BYTES = 1024 * 1024


Said = tuple[dict[str, Any], Body]
"""The header of a RESULT or a BODY, and the body: to be read or closed."""


class ChildGoneError(Exception):
    """The process ended, or can't be trusted any more; the message says how."""


def _folder_for_bodies(limits: Mapping[str, Any]) -> ScratchFolder | None:
    """Where the child may leave large answers. None where its files are limited in size, or no memory is shared."""
    if "fsize" in limits:
        return None
    try:
        return ScratchFolder("bodies", SHARED_MEMORY)
    except OSError:
        return None


class ModelProcess:
    """A child of one generation. Made by `spawn`; `gone` is done when nothing of it is left."""

    def __init__(
        self,
        name: str,
        generation: int,
        process: asyncio.subprocess.Process,
        scratch: ScratchFolder,
        bodies: ScratchFolder | None,
        on_gone: Callable[[ModelProcess], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.generation = generation
        self.pid = process.pid
        self.hung = False
        self.retired = False
        self.tasks = 0
        """How many it was given. With any, its death is more likely a record's doing than a broken start's."""
        self.prepares = False
        """Whether its model prepares a task while it works on another: set by who has read its INIT."""
        self.heartbeat: dict[str, Any] = {}
        self.gpu: dict[str, Any] = {}
        """What its last heartbeat that spoke of a GPU said (`gpu_memory.held`), unchecked."""
        self.initialised: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._process = process
        self._scratch = scratch
        self._bodies = bodies
        self._on_gone = on_gone
        self._pending: tuple[int, asyncio.Future[Said]] | None = None
        self._due: dict[int, asyncio.Future[Said]] = {}
        self._closed = False
        self._distrust: str | None = None
        self._last_lines: deque[str] = deque(maxlen=5)
        self._stacks_seen = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(
        cls,
        name: str,
        generation: int,
        *,
        init: Mapping[str, Any],
        python: str | None,
        env: Mapping[str, str],
        limits: Mapping[str, Any],
        on_gone: Callable[[ModelProcess], None],
    ) -> ModelProcess:
        """Start the child and send it INIT; its answer comes in `initialised`.

        Must be called in the main thread: PR_SET_PDEATHSIG fires when the thread that forked ends, not the
        process, so a child spawned from a pool's thread would die with that thread.

        Raises:
            OSError: the interpreter can't be started.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a model's process must be spawned from the main thread")
        scratch = ScratchFolder("model")
        bodies = _folder_for_bodies(limits)
        tasks_read, tasks_write = os.pipe()
        results_read, results_write = os.pipe()
        for fd in (tasks_write, results_write):
            with contextlib.suppress(OSError, AttributeError):  # only faster, and not beyond a user's quota
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            process = await asyncio.create_subprocess_exec(
                python or sys.executable,
                *("-c", _BOOTSTRAP, str(Path(stream_worker.__file__).parent)),
                *("--parent", str(os.getpid())),
                *("--tasks-fd", str(tasks_read), "--results-fd", str(results_write)),
                *("--limits", json.dumps(dict(limits))),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(tasks_read, results_write),
                # Ctrl-C reaches every process of the terminal's group; the model must finish its task.
                start_new_session=True,
                # A killed child can't clean up behind itself: its temporary files lie where we can.
                env=child_environment(os.environ, {"TMPDIR": scratch.path, **env}, same_interpreter=python is None),
            )
        except BaseException:
            for fd in (tasks_write, results_read):
                os.close(fd)
            scratch.remove()
            if bodies is not None:
                bodies.remove()
            raise
        finally:
            for fd in (tasks_read, results_write):
                os.close(fd)
        child = cls(name, generation, process, scratch, bodies, on_gone)
        try:
            await child._connect(os.fdopen(tasks_write, "wb", 0), os.fdopen(results_read, "rb", 0))
            with contextlib.suppress(ChildGoneError):  # then `initialised` says so
                named = {} if bodies is None else {"bodies": bodies.path}
                await child._send({**init, **named, "type": Message.INIT})
        except BaseException:
            child._signal(signal.SIGKILL)
            if child._watching is None:  # nobody else will tidy up
                child._remove_folders()
            raise
        return child

    @property
    def usable(self) -> bool:
        """Whether a task may be given to it."""
        return not (self.gone.done() or self.hung or self.retired or self._closed)

    @property
    def busy(self) -> bool:
        return self._pending is not None

    def rss_bytes(self) -> int:
        """Resident memory now, as the kernel counts it; 0 when the process is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def prepare(self, task_id: int, task: Mapping[str, Any], payload: bytes) -> None:
        """Send the task that comes next, for the child to prepare it while it has another. Raises as `task`."""
        await self._send({"type": Message.PREPARE, "id": task_id, "task": task}, payload)

    async def task(self, task_id: int, task: Mapping[str, Any] | None, payload: bytes) -> Said:
        """Send one task and wait for its answer, for ever: the caller holds the clock.

        No task: the one that was sent to be prepared, under this id. Where the answer says `body_later`, its body comes
        by `body`.

        Raises:
            ChildGoneError: the process ended, or sent what is no answer.
            ProtocolError: the task is no JSON, or too large; nothing was sent.
        """
        answer: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._pending = (task_id, answer)
        self.tasks += 1
        what = {"prepared": True} if task is None else {"task": task}
        try:
            await self._send({"type": Message.TASK, "id": task_id, **what}, payload)
            return await answer
        finally:
            self._pending = None

    async def body(self, task_id: int) -> Said:
        """The body that follows an answer, and what the child says of it. Waits for ever. Raises ChildGoneError."""
        try:
            return await self._due[task_id]
        finally:
            del self._due[task_id]

    async def kill(self, *, show_stacks: bool = False) -> None:
        """End it now, and wait until it is gone. With `show_stacks` the log first gets what it hangs in."""
        self.hung = self.hung or show_stacks
        if show_stacks and not self.gone.done():
            self._signal(signal.SIGUSR1)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stacks_seen.wait(), STACKS_WAIT_S)
        self._signal(signal.SIGKILL)
        await asyncio.wait({self.gone}, timeout=KILL_WAIT_S)
        self._leave_behind()

    async def stop(self, grace_s: float) -> None:
        """End it in good order: SHUTDOWN, after `grace_s` SIGTERM, after as much again SIGKILL."""
        self.retired = True
        with contextlib.suppress(ChildGoneError, TimeoutError):
            await asyncio.wait_for(self._send({"type": Message.SHUTDOWN}), grace_s)
        await asyncio.wait({self.gone}, timeout=grace_s)
        if not self.gone.done():
            self._signal(signal.SIGTERM)
            await asyncio.wait({self.gone}, timeout=grace_s)
        await self.kill()

    async def _connect(self, tasks: IO[bytes], results: IO[bytes]) -> None:
        loop = asyncio.get_running_loop()
        self._results = asyncio.StreamReader(limit=_PIPE_BYTES)
        self._results_transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._results), results
        )
        # A StreamReaderProtocol also carries the flow control of a writer; asyncio names no public one.
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), tasks
        )
        self._tasks = asyncio.StreamWriter(transport, protocol, None, loop)
        self._watching = asyncio.create_task(self._watch(), name=f"{self.name}-{self.generation}")

    async def _send(self, header: Mapping[str, Any], body: bytes = b"") -> None:
        head = pack({**header, "generation": self.generation}, len(body))
        try:
            self._tasks.write(head)
            self._tasks.write(body)
            await self._tasks.drain()
        except OSError as error:
            # Its reader and its exit are about to tell more.
            await asyncio.wait({self.gone}, timeout=2 * LINGER_S)
            raise ChildGoneError(self._how_it_ended()) from error

    async def _watch(self) -> None:
        """From the first frame to the last trace."""
        frames = asyncio.create_task(self._read_frames())
        lines = asyncio.create_task(self._forward_lines())
        exited = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait({frames, exited}, return_when=asyncio.FIRST_COMPLETED)
            if self._distrust:
                self._signal(signal.SIGKILL)
            await asyncio.wait({exited}, timeout=LINGER_S)
            self._signal(signal.SIGKILL)
            await asyncio.wait({exited}, timeout=KILL_WAIT_S)
            if not exited.done():
                self._leave_behind()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # what the model itself may have started
            await asyncio.wait({frames, lines}, timeout=LINGER_S)
        finally:
            for task in (frames, lines, exited):
                task.cancel()
            await asyncio.gather(frames, lines, exited, return_exceptions=True)
            self._finish(self._how_it_ended())

    def _leave_behind(self) -> None:
        """Give up a process that SIGKILL has not ended, so that nobody waits for it for ever."""
        if not self.gone.done():
            _log.error("model process can't be killed, leaving it behind", model=self.name, pid=self.pid)
            self._finish("it can't be killed")

    def _finish(self, how: str) -> None:
        if self.gone.done():
            return
        if not self._tasks.transport.is_closing():
            self._tasks.transport.abort()
        self._results_transport.close()
        self._remove_folders()
        waited_for: list[asyncio.Future[Any]] = [self.initialised, *self._due.values()]
        if self._pending:
            waited_for.append(self._pending[1])
        for future in waited_for:
            if not future.done():
                future.set_exception(ChildGoneError(how))
                future.exception()  # seen: nobody may be waiting for it
        self.gone.set_result(None)
        self._on_gone(self)

    def _remove_folders(self) -> None:
        self._scratch.remove()
        if self._bodies is not None:
            self._bodies.remove()

    async def _read_frames(self) -> None:
        try:
            while True:
                header_size, body_size = unpack_prefix(await self._results.readexactly(PREFIX.size))
                header = unpack_header(await self._results.readexactly(header_size))
                self._take(header, await self._results.readexactly(body_size))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self._distrust = "its pipe closed inside a frame"
        except ProtocolError as error:
            self._distrust = str(error)
        finally:
            self._closed = True

    def _take(self, header: dict[str, Any], body: bytes) -> None:
        kind = header["type"]
        if header.get("generation") != self.generation:
            raise ProtocolError(f"{kind.value} of generation {header.get('generation')!r}")
        if kind is Message.HEARTBEAT:
            self.heartbeat = header
            if isinstance(gpu := header.get("gpu"), dict):
                self.gpu = gpu
        elif kind is Message.INIT and not self.initialised.done():
            self.initialised.set_result(header)
        elif kind is Message.RESULT:
            task_id, answer = self._pending or (None, None)
            if answer is None or answer.done() or header.get("id") != task_id:
                # Late, repeated or made up: whatever it is, it is not the answer to what was asked.
                _log.warning("result dropped", model=self.name, generation=self.generation, id=header.get("id"))
                return
            if header.get("body_later") and task_id is not None:
                self._due[task_id] = asyncio.get_running_loop().create_future()
            answer.set_result((header, Body(body)))
        elif kind is Message.BODY:
            name = header.get("id")
            due = self._due.get(name) if isinstance(name, int) else None
            if due is None or due.done():
                raise ProtocolError("a body that no answer has spoken of")
            folder = None if self._bodies is None else self._bodies.path
            due.set_result((header, Body.of(header.get("result"), body, folder)))
        else:
            raise ProtocolError(f"unexpected {kind.value}")

    async def _forward_lines(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        held = b""
        while chunk := await stream.read(1 << 16):
            *lines, held = (held + chunk).split(b"\n")
            for line in lines:
                self._log_line(line)
            if len(held) > MAX_LINE_BYTES:
                self._log_line(held)
                held = b""
        self._log_line(held)

    def _log_line(self, raw: bytes) -> None:
        # Progress bars overwrite their line with \r: the last state is the one to see.
        shown = raw.rstrip(b"\r").rpartition(b"\r")[2]
        line = shown[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
        if not line:
            return
        self._last_lines.append(line)
        if line.startswith(("Current thread 0x", "Thread 0x")):
            self._stacks_seen.set()
        _log.info("model says", model=self.name, generation=self.generation, line=line)

    def _how_it_ended(self) -> str:
        if self._distrust:
            return f"it was killed: {self._distrust}"
        code = self._process.returncode
        if code is None:
            return "it closed its pipe"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"it was ended by {signal.Signals(-code).name}"
        last = f": {self._last_lines[-1]}" if self._last_lines and code else ""
        return f"it exited with code {code}{last}"

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
