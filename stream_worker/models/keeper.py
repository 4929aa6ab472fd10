"""A model's child process kept alive: started, timed while it loads, replaced when it ends, recycled when it creeps.

What it is asked to do is `host.py`'s part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Any, Self

import structlog

from stream_worker import metrics
from stream_worker.errors import Exit, Ours, OutageError, UserError
from stream_worker.models.answer import CUDA_OOM, Answer, read_loaded
from stream_worker.models.gpu_memory import HELD, LIMIT
from stream_worker.models.process import ChildGoneError, ModelProcess
from stream_worker.models.protocol import ModelFault

_log = structlog.get_logger(__name__)

_OURS = frozenset({"load_failed", "load_timeout", "load_crashed", CUDA_OOM})
"""Why a start failed, where no person has misnamed anything."""


MOST_BYTES = 2**50
"""No GPU has more: a child that says so talks nonsense."""

YOUNG = 10
"""Tasks in which a child gathers nothing worth a new start: what is too large for it would be so for the next one."""


class State(StrEnum):
    """What the model's process is doing, by the host's clock."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    HUNG = "hung"  # past its deadline, about to be killed
    DEAD = "dead"  # none runs; the next task starts one


class ModelLoadError(OutageError):
    """The model can't be started now. No record is to blame; trying again later may help.

    `code` is the child's ModelFault code, or `load_failed`, `load_timeout`, `load_crashed`,
    `interpreter_missing`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, Ours.MODEL)
        self.code = code


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait before a restart: none after a first failure, then `first_s`, doubled up to `cap_s`."""

    first_s: float = 0.5
    cap_s: float = 60.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row."""
        if failures <= 1:
            return 0.0
        return min(self.cap_s, self.first_s * 2.0 ** min(failures - 2, 60))


@dataclass(slots=True)
class Counters:
    """What has happened in the life of a host."""

    tasks: int = 0
    starts: int = 0
    failed_starts: int = 0
    crashes: int = 0
    timeouts: int = 0
    recycles: int = 0

    @property
    def restarts(self) -> int:
        """Starts after the first that succeeded."""
        return max(0, self.starts - 1)


@dataclass(eq=False)
class KeptModel:
    """One model in one child process at a time.

    Args:
        name: for logs and messages, such as `detector`.
        model: `module:Class`, see `child.Model`.
        options: JSON-able, given to the model's `load`.
        python: interpreter of the child; None for ours.
        env: variables set on top of what `environment.child_environment` passes on.
        load_timeout_s: from the spawn until the model is loaded and warm.
        rss_limit_bytes: above this much resident memory after a task, the child is recycled. (So it is after an error
            after which no task could succeed, and where GPU memory was not enough, unless it is young.)
        limits: see `child.confine`.
        backoff: between restarts.
        heartbeat_s: how often the child tells its state and memory.
        stop_grace_s: for each step of `stop`.
    """

    name: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    load_timeout_s: float = 300.0
    rss_limit_bytes: int | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)
    backoff: Backoff = field(default_factory=Backoff)
    heartbeat_s: float = 1.0
    stop_grace_s: float = 5.0

    info: dict[str, Any] = field(default_factory=dict, init=False)
    """What the model said of itself when it was loaded (`model`, `version`, `weights_sha256`...)."""
    load_times: dict[str, float] = field(default_factory=dict, init=False)
    counters: Counters = field(default_factory=Counters, init=False)

    def __post_init__(self) -> None:
        self._process: ModelProcess | None = None
        self._starting: asyncio.Task[ModelProcess] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._generation = 0
        self._failures = 0
        self._not_before = 0.0
        self._stopped = False
        metrics.begin_model(self.name)
        for state in State:
            metrics.MODEL_STATE.labels(self.name, state.value).set_function(partial(self._is, state))
        metrics.MODEL_MEMORY_BYTES.labels(self.name).set_function(lambda: self.rss_bytes)
        metrics.MODEL_GPU_MEMORY_BYTES.labels(self.name).set_function(partial(self._said_bytes, HELD))
        metrics.MODEL_GPU_MEMORY_LIMIT_BYTES.labels(self.name).set_function(partial(self._said_bytes, LIMIT))

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def state(self) -> State:
        """What the child is doing now."""
        process = self._process  # once: metrics are read from another thread
        if process is not None and not process.gone.done():
            if process.hung:
                return State.HUNG
            return State.BUSY if process.busy else State.READY
        return State.STARTING if self._starting is not None else State.DEAD

    @property
    def generation(self) -> int:
        """Number of the newest child, from 1."""
        return self._generation

    @property
    def pid(self) -> int | None:
        """Process id of the child that takes tasks."""
        return self._process.pid if self._process is not None else None

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the child."""
        process = self._process
        return process.rss_bytes() if process is not None else 0

    def _is(self, state: State) -> bool:
        return self.state is state

    def _said_bytes(self, name: str) -> int:
        """A figure that the child tells of its GPU; 0 where it tells none, or nonsense."""
        process = self._process
        said = None if process is None else process.gpu.get(name)
        return said if type(said) is int and 0 <= said < MOST_BYTES else 0

    async def start(self) -> None:
        """Have a child loaded and warm. After an error the host can still be used: the next task tries again.

        Raises:
            UserError: something that was set is wrong (weights, classes, interpreter), in one line. Its
                cause is the child's ModelFault.
            ModelLoadError: it crashed, took too long or failed in a way that nobody foresaw.
        """
        self._stopped = False
        try:
            await self._live()
        except ModelLoadError as error:
            if error.code in _OURS:
                raise
            exit_code = Exit.WEIGHTS if error.code.startswith("weights") else Exit.USAGE
            raise UserError(str(error), exit_code) from ModelFault(error.code, str(error))

    async def stop(self) -> None:
        """End the child: SHUTDOWN, then SIGTERM, then SIGKILL, each after `stop_grace_s`."""
        self._stopped = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._process is not None:
            await self._process.stop(self.stop_grace_s)
        if self._background:  # those that waited for their turn now hear that there is none
            _, late = await asyncio.wait(self._background, timeout=self.stop_grace_s)
            for task in late:
                task.cancel()

    # ------------------------------------------------------------------ what the host asks

    async def _live(self) -> ModelProcess:
        """The child to give a task to, started if there is none."""
        if self._process is not None and not self._process.usable:
            await asyncio.shield(self._process.gone)  # two at once would not fit into the GPU's memory
        if self._process is not None:
            return self._process
        if self._stopped:
            raise ModelLoadError("stopped", f"{self.name} was stopped")
        return await asyncio.shield(self._starting or self._start_soon())

    def _did(self, process: ModelProcess, answer: Answer) -> None:
        """A child has answered: it is worth starting anew at once, and may be due for that already."""
        self._failures = 0
        if answer.out_of_gpu_memory:
            metrics.MODEL_OUT_OF_MEMORY.labels(self.name).inc()
        self._recycle_if_needed(process, answer)

    # ------------------------------------------------------------------ its life

    def _recycle_if_needed(self, process: ModelProcess, answer: Answer) -> None:
        rss = process.rss_bytes()
        if answer.poisoned:
            why = "no later task could succeed"
        elif answer.out_of_gpu_memory and process.tasks > YOUNG:
            why = "out of GPU memory"
        elif self.rss_limit_bytes is not None and rss > self.rss_limit_bytes:
            why = "above its memory limit"
        else:
            return
        self.counters.recycles += 1
        _log.warning("model recycled", model=self.name, pid=process.pid, rss_bytes=rss, why=why)
        process.retired = True
        self._keep(asyncio.create_task(process.stop(self.stop_grace_s)))

    def _start_soon(self) -> asyncio.Task[ModelProcess]:
        self._starting = asyncio.create_task(self._start(), name=f"start-{self.name}")
        self._keep(self._starting)
        return self._starting

    async def _start(self) -> ModelProcess:
        try:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            process = await self._spawn()
        except ModelLoadError as error:
            self.counters.failed_starts += 1
            metrics.MODEL_ENDS.labels(self.name, "failed_start").inc()
            self._failed()
            _log.error("model can't be started", model=self.name, code=error.code, error=str(error))
            raise
        except asyncio.CancelledError:
            if self._stopped:  # who waits for this start was not cancelled
                raise ModelLoadError("stopped", f"{self.name} was stopped") from None
            raise
        finally:
            self._starting = None
        self.counters.starts += 1
        metrics.MODEL_STARTS.labels(self.name).inc()
        if isinstance(compiled := self.info.get("compiled"), bool):
            metrics.MODEL_COMPILED.labels(self.name).set(compiled)
        self._process = process
        _log.info(
            "model ready",
            model=self.name,
            pid=process.pid,
            generation=process.generation,
            times=self.load_times,
        )
        return process

    async def _spawn(self) -> ModelProcess:
        self._generation += 1
        init = {"model": self.model, "options": dict(self.options), "heartbeat_s": self.heartbeat_s}
        process: ModelProcess | None = None
        try:
            async with asyncio.timeout(self.load_timeout_s):
                process = await ModelProcess.spawn(
                    self.name,
                    self._generation,
                    init=init,
                    python=self.python,
                    env=self.env,
                    limits=self.limits,
                    on_gone=self._gone,
                )
                answer = await asyncio.shield(process.initialised)
        except TimeoutError:
            if process is not None:
                await process.kill(show_stacks=True)
            raise ModelLoadError(
                "load_timeout", f"{self.name}: not loaded within {self.load_timeout_s:g} s, killed"
            ) from None
        except ChildGoneError as error:
            raise ModelLoadError("load_crashed", f"{self.name}: while loading, {error}") from None
        except OSError as error:
            raise ModelLoadError(
                "interpreter_missing", f"{self.name}: can't start {self.python or 'python'}: {error.strerror}"
            ) from None
        except asyncio.CancelledError:
            if process is not None:
                await process.kill()
            raise
        loaded = read_loaded(answer)
        if loaded is None:
            await process.kill()
            raise ModelLoadError("load_crashed", f"{self.name}: when loaded it sent what is no INIT, and was killed")
        if loaded.fault is not None:
            await process.kill()
            code, message = loaded.fault
            raise ModelLoadError(code, f"{self.name}: {message}")
        if not process.usable:
            raise ModelLoadError("load_crashed", f"{self.name}: its process ended as soon as it was loaded")
        process.prepares = loaded.prepares
        self.info, self.load_times = loaded.info, loaded.times
        return process

    def _gone(self, process: ModelProcess) -> None:
        """A child has ended. If it was the one at work, have the next one loaded before it is asked for."""
        if process is not self._process:
            return
        self._process = None
        if self._stopped:
            return
        metrics.MODEL_ENDS.labels(self.name, _cause(process)).inc()
        if not (process.retired or process.tasks):
            self._failed()
        self._start_soon()

    def _failed(self) -> None:
        self._failures += 1
        self._not_before = time.monotonic() + self.backoff.delay(self._failures)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a task until it ends, and look at its error: its caller may have gone."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _cause(process: ModelProcess) -> str:
    if process.retired:
        return "recycle"
    return "timeout" if process.hung else "crash"
