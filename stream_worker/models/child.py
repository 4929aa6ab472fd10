"""The process in which a model lives: loads it, then answers one task after another.

    preparer:  prepare(k + 1)
    main:      infer(k)            the only one of the three that keeps the GPU
    leaver:    the body of k - 1

Started by `models.host` with an interpreter of its own, never forked from the service. It must run on
Python 3.10 and later with nothing installed but what its model needs: standard library only here.

Messages go through two private pipes whose numbers come on the command line. The descriptors 0, 1 and 2
are /dev/null and the log: a library that prints, in Python or in C, cannot break the protocol.

The host judges by its own clock and never by the heartbeat: native code that holds the GIL silences it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Protocol, Union

from stream_worker.models import gpu_memory
from stream_worker.models.protocol import (
    MAX_BODY_BYTES,
    Message,
    ModelFault,
    NotFiniteError,
    ProtocolError,
    failure,
    one_line,
    read_frame,
    write_frame,
)

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

OOM_SCORE = "500"
"""When memory runs out the kernel should take the model, which is replaced, and not the consumer."""

LARGE_BYTES = 256 * 1024
"""Of an answer's body that follows later, and by shared memory where the host has a folder for it."""

Body = Union[bytes, Callable[[], bytes]]  # noqa: UP007  (Python 3.10 can't join a type of `collections.abc` by `|`)


class Model(Protocol):
    """What a model class offers. Its methods are called in one thread, one at a time.

    But for `prepare(task, payload)`, which a model may have besides: it does what of a task needs no GPU, in a thread
    of its own while `infer` works on the task before. `infer` then gets what it gave in place of the payload.
    """

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Get ready to work; the answer says what was loaded (model, version, weights_sha256...)."""

    def warm_up(self) -> None:
        """Run once what only costs at the first call."""

    def infer(self, task: dict[str, Any], payload: Any) -> tuple[dict[str, Any], Body]:
        """Do one task. Raises ModelFault where the task itself is at fault.

        A body may be a function that gives it: called in a thread of its own, while the next task is in work already.
        """


Taken = Union[tuple[dict[str, Any], Any], None, Exception]  # noqa: UP007  (as above)
"""A task with its payload or what is being prepared of it; None when the host is gone; why the pipe can't be read."""


class Child:
    """One model and the two ends of the pipes to its host."""

    def __init__(self, tasks_fd: int, results_fd: int, limits: dict[str, Any]) -> None:
        self._tasks_fd = tasks_fd
        self._results_fd = results_fd
        self._cpu_per_task_s = limits.get("cpu_per_task_s")
        self._write_lock = threading.Lock()
        self._generation = 0
        self._state = "loading"
        self._task_id: int | None = None
        self._bodies: str | None = None
        self._frames: SimpleQueue[Taken] = SimpleQueue()
        self._preparer = ThreadPoolExecutor(1, "preparer")
        self._leaver = ThreadPoolExecutor(1, "leaver")
        self._left_last: Future[None] | None = None

    def run(self) -> int:
        """Serve until the host says SHUTDOWN or is gone. Returns the exit code."""
        frame = read_frame(self._tasks_fd)
        if frame is None:
            return 0
        init, _ = frame
        if init["type"] is not Message.INIT:
            raise ProtocolError(f"expected INIT, got {init['type'].value}")
        self._generation = init["generation"]
        self._bodies = init.get("bodies")
        threading.Thread(target=self._beat, args=(float(init["heartbeat_s"]),), name="heartbeat", daemon=True).start()
        model = self._load(init["model"], init["options"])
        if model is None:
            return 3
        threading.Thread(target=self._read, args=(model,), name="reader", daemon=True).start()
        try:
            while (taken := self._frames.get()) is not None:
                if isinstance(taken, Exception):
                    raise taken
                header, given = taken
                if header["type"] is Message.SHUTDOWN:
                    break
                self._answer(model, header, given)
        finally:
            self._leaver.shutdown()
        return 0

    def _read(self, model: Model) -> None:
        """Take in what the host sends, also while the model works: so the next task can be prepared."""
        prepare = getattr(model, "prepare", None)
        ahead: tuple[dict[str, Any], Any] | None = None
        try:
            while (frame := read_frame(self._tasks_fd)) is not None:
                header, payload = frame
                given: Any = payload
                kind = header["type"]
                if kind not in (Message.PREPARE, Message.TASK, Message.SHUTDOWN):
                    raise ProtocolError(f"expected TASK, got {kind.value}")
                if prepare is not None and "task" in header:
                    given = self._preparer.submit(prepare, header["task"], given)
                if kind is Message.PREPARE:
                    ahead = header, given
                    continue
                if header.get("prepared"):
                    if ahead is None or ahead[0]["id"] != header["id"]:
                        raise ProtocolError(f"task {header['id']} was not prepared")
                    header, given = {**header, **ahead[0], "type": kind}, ahead[1]
                self._frames.put((header, given))
            self._frames.put(None)
        except Exception as error:  # noqa: BLE001  (the main thread raises it)
            self._frames.put(error)

    def _load(self, name: str, options: dict[str, Any]) -> Model | None:
        """The model, loaded and warm, after telling the host; None when the host was told why not."""
        began = time.monotonic()
        try:
            model = _model_class(name)()
            info = model.load(options)
            loaded = time.monotonic()
            model.warm_up()
        except Exception as error:  # noqa: BLE001  (whatever it is, the host must hear of it)
            self._send({"type": Message.INIT, "fault": _init_fault(error)})
            return None
        warm = time.monotonic()
        self._state = "ready"
        times = {"load_s": round(loaded - began, 3), "warm_up_s": round(warm - loaded, 3)}
        prepares = hasattr(model, "prepare")
        self._send({"type": Message.INIT, "info": info, "times": times, "prepares": prepares, "pid": os.getpid()})
        return model

    def _answer(self, model: Model, header: dict[str, Any], given: Any) -> None:
        self._task_id, self._state = header["id"], "busy"
        self._heartbeat()
        self._limit_cpu()
        began = time.monotonic()
        answer: dict[str, Any] = {"type": Message.RESULT, "id": header["id"]}
        body: Body = b""
        try:
            found = given.result() if isinstance(given, Future) else given
            answer["result"], body = _of_the_right_form(model.infer(header["task"], found))
        except Exception as error:  # noqa: BLE001  (whatever it is, the host must hear of it)
            answer.update(failure(error))
        answer["busy_s"] = round(time.monotonic() - began, 6)
        self._state, self._task_id = "ready", None
        if isinstance(body, bytes) and len(body) < LARGE_BYTES:
            self._send_answer(answer, body)
            return
        if self._left_last is not None:
            self._left_last.result()  # no more than one on its way: they are large
        if self._send_answer({**answer, "body_later": True}):
            self._left_last = self._leaver.submit(self._leave, header["id"], body)

    def _send_answer(self, answer: dict[str, Any], body: bytes = b"") -> bool:
        """Whether it could be sent as it is; otherwise the host has heard why not."""
        try:
            self._send(answer, body)
        except ProtocolError as error:  # refused before a byte was written: a NaN, or too large
            code = "not_finite" if isinstance(error, NotFiniteError) else "bad_answer"
            kept = {name: value for name, value in answer.items() if name not in ("result", "body_later")}
            self._send({**kept, "fault": {"code": code, "message": one_line(error)}})
            return False
        return True

    def _leave(self, task_id: int, body: Body) -> None:
        """Make a body where it is to be made still, and leave it in the host's folder; or send it, without one."""
        began = time.monotonic()
        said: dict[str, Any] = {"type": Message.BODY, "id": task_id}
        data = b""
        try:
            made = body if isinstance(body, bytes) else body()
            if not isinstance(made, bytes):
                raise ModelFault("bad_answer", "the model's body must be bytes")
            said["result"], data = self._left(str(task_id), made)
        except Exception as error:  # noqa: BLE001  (whatever it is, the host must hear of it)
            said.update(failure(error))
        said["busy_s"] = round(time.monotonic() - began, 6)
        self._send_answer(said, data)

    def _left(self, name: str, body: bytes) -> tuple[dict[str, Any], bytes]:
        """Where a body lies in the host's folder, and what of it is to be sent still."""
        if self._bodies is None or len(body) > MAX_BODY_BYTES:
            return {}, body
        path = os.path.join(self._bodies, name)
        try:
            with open(path, "wb") as file:
                file.write(body)
        except OSError:  # no room: the pipe takes it, in its time
            with contextlib.suppress(OSError):
                os.unlink(path)
            return {}, body
        return {"body_file": name, "body_bytes": len(body)}, b""

    def _limit_cpu(self) -> None:
        """RLIMIT_CPU counts the life of the process; moving its soft limit makes it a limit per task."""
        if self._cpu_per_task_s is None:
            return
        spent = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(spent.ru_utime + spent.ru_stime + self._cpu_per_task_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))

    def _beat(self, every_s: float) -> None:
        while True:
            time.sleep(every_s)
            try:
                self._heartbeat(gpu=gpu_memory.held())  # not at every task: torch takes its time for it
            except OSError:  # the host is gone; the main thread sees it too
                return

    def _heartbeat(self, **more: Any) -> None:
        known = {"state": self._state, "id": self._task_id, "rss_bytes": _rss_bytes()}
        self._send({"type": Message.HEARTBEAT, **known, **more})

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        with self._write_lock:
            write_frame(self._results_fd, {**header, "generation": self._generation}, body)


def _model_class(name: str) -> type[Model]:
    module_name, _, class_name = name.partition(":")
    try:
        found: type[Model] = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ModelFault("import_failed", f"{sys.executable} can't import {module_name}: {one_line(error)}") from error
    except AttributeError:
        raise ModelFault("import_failed", f"{module_name} has no class {class_name!r}") from None
    return found


def _of_the_right_form(answer: Any) -> tuple[dict[str, Any], Body]:
    """What `infer` gave. Raises ModelFault where it can't be sent: another body would end in the middle of a frame."""
    match answer:
        case (dict() as result, body) if isinstance(body, bytes) or callable(body):
            return result, body
    raise ModelFault("bad_answer", "the model's `infer` must give a dict and bytes")


def _init_fault(error: Exception) -> dict[str, str]:
    said = failure(error)
    if "fault" in said:
        fault: dict[str, str] = said["fault"]
        return fault
    return {"code": "load_failed", "message": f"{type(error).__name__}: {one_line(error)}"}


def _rss_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def die_with(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the host's thread ends, and end now if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(
            f"the parent is {os.getppid()}, not the host {parent_pid}: it died, or the interpreter is a "
            "wrapper that does not exec"
        )


def confine(limits: dict[str, Any]) -> None:
    """Set the limits of this process, before anything large or hostile is imported or read.

    Args:
        limits: any of `as` and `fsize` (bytes), `nofile` (count), `no_new_privs` (bool);
            `cpu_per_task_s` is set anew at every task. No child leaves a core dump (tens of GB with CUDA).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, kind in (
        ("as", resource.RLIMIT_AS),
        ("fsize", resource.RLIMIT_FSIZE),
        ("nofile", resource.RLIMIT_NOFILE),
    ):
        if name in limits:
            resource.setrlimit(kind, (int(limits[name]), int(limits[name])))
    if limits.get("no_new_privs") and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write(OOM_SCORE)


def main() -> int:
    """Serve the host that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="the host's process id")
    parser.add_argument("--tasks-fd", type=int, required=True, help="pipe to read frames from")
    parser.add_argument("--results-fd", type=int, required=True, help="pipe to write frames to")
    parser.add_argument("--limits", type=json.loads, default={}, help="JSON, see `confine`")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    for fd in (arguments.tasks_fd, arguments.results_fd):
        os.set_inheritable(fd, False)  # a process that the model starts must not hold the pipes open
    confine(arguments.limits)
    faulthandler.enable()
    # The host sends it to a hung child before the kill: the log then shows where it hung.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        return Child(arguments.tasks_fd, arguments.results_fd, arguments.limits).run()
    except BrokenPipeError:
        return 0  # the host is gone


if __name__ == "__main__":
    sys.exit(main())
