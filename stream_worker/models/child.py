"""The process in which a model lives: loads it, then answers one task after another.

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
import traceback
from typing import Any, Protocol

from stream_worker.models.protocol import (
    MAX_BODY_BYTES,
    Message,
    ModelFault,
    NotFiniteError,
    ProtocolError,
    read_frame,
    write_frame,
)

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38

OOM_SCORE = "500"
"""When memory runs out the kernel should take the model, which is replaced, and not the consumer."""

MAX_MESSAGE_CHARS = 500

LARGE_BYTES = 256 * 1024
"""Of an answer's body that goes by shared memory, where the host has a folder for it."""


class Model(Protocol):
    """What a model class offers. Its methods are called in one thread, one at a time."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Get ready to work; the answer says what was loaded (model, version, weights_sha256...)."""

    def warm_up(self) -> None:
        """Run once what only costs at the first call."""

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Do one task. Raises ModelFault where the task itself is at fault."""


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
        while (frame := read_frame(self._tasks_fd)) is not None:
            header, payload = frame
            if header["type"] is Message.SHUTDOWN:
                return 0
            if header["type"] is not Message.TASK:
                raise ProtocolError(f"expected TASK, got {header['type'].value}")
            self._answer(model, header, payload)
        return 0

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
        self._send({"type": Message.INIT, "info": info, "times": times, "pid": os.getpid()})
        return model

    def _answer(self, model: Model, header: dict[str, Any], payload: bytes) -> None:
        self._task_id, self._state = header["id"], "busy"
        self._heartbeat()
        self._limit_cpu()
        began = time.monotonic()
        answer: dict[str, Any] = {"type": Message.RESULT, "id": header["id"]}
        body = b""
        try:
            answer["result"], body = _of_the_right_form(model.infer(header["task"], payload))
        except Exception as error:  # noqa: BLE001  (whatever it is, the host must hear of it)
            answer.update(_failure(error))
        answer["busy_s"] = round(time.monotonic() - began, 6)
        self._state, self._task_id = "ready", None
        named, rest = self._left(header["id"], body)
        try:
            self._send({**answer, **named}, rest)
        except ProtocolError as error:  # refused before a byte was written: a NaN, or too large
            self._take_back(named)
            answer.pop("result", None)
            code = "not_finite" if isinstance(error, NotFiniteError) else "bad_answer"
            self._send({**answer, "fault": {"code": code, "message": _one_line(error)}})

    def _left(self, task_id: int, body: bytes) -> tuple[dict[str, Any], bytes]:
        """Leave a large body in the host's folder: what the answer has to say of it, and what is to be sent still."""
        if self._bodies is None or not LARGE_BYTES <= len(body) <= MAX_BODY_BYTES:
            return {}, body
        named = {"body_file": str(task_id), "body_bytes": len(body)}
        try:
            with open(os.path.join(self._bodies, str(task_id)), "wb") as file:
                file.write(body)
        except OSError:  # no room: the pipe takes it, in its time
            self._take_back(named)
            return {}, body
        return named, b""

    def _take_back(self, named: dict[str, Any]) -> None:
        if self._bodies is not None and named:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._bodies, named["body_file"]))

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
                self._heartbeat()
            except OSError:  # the host is gone; the main thread sees it too
                return

    def _heartbeat(self) -> None:
        self._send({"type": Message.HEARTBEAT, "state": self._state, "id": self._task_id, "rss_bytes": _rss_bytes()})

    def _send(self, header: dict[str, Any], body: bytes = b"") -> None:
        with self._write_lock:
            write_frame(self._results_fd, {**header, "generation": self._generation}, body)


def _model_class(name: str) -> type[Model]:
    module_name, _, class_name = name.partition(":")
    try:
        found: type[Model] = getattr(importlib.import_module(module_name), class_name)
    except ImportError as error:
        raise ModelFault("import_failed", f"{sys.executable} can't import {module_name}: {_one_line(error)}") from error
    except AttributeError:
        raise ModelFault("import_failed", f"{module_name} has no class {class_name!r}") from None
    return found


def _of_the_right_form(answer: Any) -> tuple[dict[str, Any], bytes]:
    """What `infer` gave. Raises ModelFault where it can't be sent: another body would end in the middle of a frame."""
    match answer:
        case (dict() as result, bytes() as body):
            return result, body
    raise ModelFault("bad_answer", "the model's `infer` must give a dict and bytes")


def _failure(error: Exception) -> dict[str, Any]:
    """The part of a RESULT that says what went wrong; the traceback goes to the log."""
    if isinstance(error, ModelFault):
        return {"fault": {"code": error.code, "message": error.message}}
    traceback.print_exception(error, file=sys.stderr)
    names = {ancestor.__name__ for ancestor in type(error).__mro__}
    message = _one_line(error)
    if "OutOfMemoryError" in names:  # torch's, known by name because torch may not be here
        return {"fault": {"code": "cuda_oom", "message": message}}
    return {
        "error": {
            "type": type(error).__name__,
            "message": message,
            # After a sticky CUDA error every later call in this process fails as well.
            "poisoned": "AcceleratorError" in names or "CUDA error" in str(error),
        }
    }


def _init_fault(error: Exception) -> dict[str, str]:
    failure = _failure(error)
    if "fault" in failure:
        fault: dict[str, str] = failure["fault"]
        return fault
    return {"code": "load_failed", "message": f"{type(error).__name__}: {_one_line(error)}"}


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:MAX_MESSAGE_CHARS] if lines else type(error).__name__


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
