"""Models that do what the test asks for, good or bad. They run in a model's process, on any Python >= 3.10."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from stream_worker.models import gpu_memory
from stream_worker.models.child import Child
from stream_worker.models.protocol import MAX_BODY_BYTES, ModelFault, write_frame


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


class Huge(bytes):
    """Says that it is longer than any frame may be."""

    def __len__(self) -> int:
        return MAX_BODY_BYTES + 1


class Echo:
    """Every key of a task names an act below; what the acts return is the answer."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        self.done = 0
        self.held: list[bytearray] = []
        return {"model": "echo", "version": options.get("version", "0")}

    def warm_up(self) -> None:
        pass

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        self.payload = payload
        answer = {name: getattr(self, name)(value) for name, value in task.items()}
        self.done += 1
        return answer, self.payload

    # ---------------------------------------------------------------- good

    def echo(self, value: Any) -> Any:
        return value

    def count_tasks(self, _: Any) -> int:
        return self.done

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def tell(self, _: Any) -> dict[str, Any]:
        lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "version": sys.version,
            "path": sys.path,
            "environment": dict(os.environ),
            "status": {name: value.strip() for name, _, value in lines},
        }

    def temporary_file(self, _: Any) -> str:
        return tempfile.mkstemp()[1]

    def start_a_process(self, _: Any) -> int:
        return subprocess.Popen(["sleep", "3600"]).pid

    def burn_cpu_s(self, seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    # ---------------------------------------------------------------- at fault

    def fault(self, value: list[str]) -> None:
        raise ModelFault(*value)

    def divide_by_zero(self, _: Any) -> float:
        return 1 / 0

    def run_out_of_gpu_memory(self, _: Any) -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more lines")

    def poison(self, _: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def answer_nan(self, _: Any) -> float:
        return float("nan")

    def answer_text(self, _: Any) -> None:
        self.payload = "a body that is no bytes"  # type: ignore[assignment]

    def answer_too_much(self, _: Any) -> None:
        self.payload = Huge()

    # ---------------------------------------------------------------- bad

    def hang_holding_the_gil(self, _: Any) -> None:
        while True:  # a signal ends the sleep, and the host sends one to see the stacks
            ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the GIL during the call: no Python thread runs

    def hang_in_python(self, _: Any) -> None:
        time.sleep(3600)

    def stop_itself(self, _: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def crash(self, _: Any) -> None:
        ctypes.string_at(0)

    def print(self, _: Any) -> None:
        print("python print")
        libc = ctypes.CDLL(None)
        libc.puts(b"from a C library")
        libc.fflush(None)
        os.write(1, b"first state of the bar\rlast state of the bar\n")
        os.write(2, b"not \xff utf-8\n")
        os.write(1, b"x" * 100_000 + b"\n")

    def write_to_the_pipe(self, junk: str) -> None:
        os.write(_child()._results_fd, junk.encode())
        time.sleep(3600)

    def close_the_pipe(self, _: Any) -> None:
        os.close(_child()._results_fd)
        time.sleep(3600)

    def forge(self, headers: dict[str, Any] | list[dict[str, Any]]) -> None:
        child = _child()
        usual = {"type": "RESULT", "id": child._task_id, "generation": child._generation, "busy_s": 0.0}
        for header in headers if isinstance(headers, list) else [headers]:
            write_frame(child._results_fd, {**usual, **header})

    def grow_mb(self, size: int) -> None:
        self.held.append(bytearray(b"x" * (size * 2**20)))

    def write_file(self, path: str) -> None:
        Path(path).write_bytes(b"x" * 20_000)


class Prepares(Echo):
    """Acts as well in a task's `prepare`, beside the task before; and makes its body later where a task has `later`."""

    def prepare(self, task: dict[str, Any], payload: bytes) -> tuple[float, float, bytes]:
        began = time.time()
        for name, value in task.get("prepare", {}).items():
            getattr(self, name)(value)
        return began, time.time(), payload

    def infer(self, task: dict[str, Any], prepared: Any) -> tuple[dict[str, Any], Any]:
        began, ended, payload = prepared
        later = task.get("later")
        acts = {name: value for name, value in task.items() if name not in ("prepare", "later")}
        answer, _ = super().infer(acts, payload)
        answer |= {"prepared_from": began, "prepared_to": ended}
        return answer, payload if later is None else lambda: self.made_later(later)

    def made_later(self, acts: dict[str, Any]) -> Any:
        self.left = b"made later"
        for name, value in acts.items():
            getattr(self, name)(value)
        return self.left

    def leave_text(self, _: Any) -> None:
        self.left = "a body that is no bytes"  # type: ignore[assignment]

    def leave_much(self, size: int) -> None:
        self.left = b"x" * size


class NeedsWeights(Echo):
    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        if not Path(options["weights"]).exists():
            raise ModelFault("weights_missing", f"no weights at {options['weights']}")
        return super().load(options)


class OnACard(Echo):
    """Says of its GPU what `options["held"]` is, whatever that is."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        cuda = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            memory_reserved=lambda device: 0,
            get_device_properties=lambda device: SimpleNamespace(total_memory=2**30),
        )
        gpu_memory.keep_within(SimpleNamespace(cuda=cuda), None)
        told = gpu_memory.held()
        gpu_memory.held = lambda: {**told, gpu_memory.HELD: options["held"]}
        return super().load(options)


class ExitsInLoad(Echo):
    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        print("libcuda is on fire", file=sys.stderr, flush=True)
        os._exit(7)


class RaisesInLoad(Echo):
    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("driver too old\nsecond line")


class ForgesInit(Echo):
    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        child = _child()
        write_frame(child._results_fd, {"type": "INIT", "generation": child._generation, "info": [], "times": {}})
        return super().load(options)


class HangsInLoad(Echo):
    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        self.hang_holding_the_gil(None)
        raise AssertionError


def _child() -> Child:
    """The child that this model lives in: it is up the stack."""
    frame = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), Child):
        assert frame.f_back is not None
        frame = frame.f_back
    child: Child = frame.f_locals["self"]
    return child


class Together:
    """Takes several photos at once, and says of each what it was asked and with how many it came."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": "together", "batch": options["batch"]}

    def warm_up(self) -> None:
        pass

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        photos = task["photos"]
        for photo in photos:
            time.sleep(photo.get("sleep", 0))
            if "kill" in photo:
                os.kill(os.getpid(), signal.SIGKILL)
            if "refuse" in photo:
                raise ModelFault("refused", "not all of these")
        if any("nonsense" in photo for photo in photos):
            return {}, b"no JSON"
        return {}, json.dumps([self._answer(photo, len(photos)) for photo in photos]).encode()

    def _answer(self, photo: dict[str, Any], count: int) -> Any:
        if "fault" in photo:
            return {"fault": {"code": "empty_mask", "message": photo["fault"]}}
        return photo["answer"] if "answer" in photo else {"said": photo["say"], "with": count}
