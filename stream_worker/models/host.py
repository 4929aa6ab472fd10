"""The parent's side of a model: one task at a time, timed, in a child that is kept alive (`keeper.py`).

The host holds the clock. A task's deadline starts when the model gets it (waiting for its turn does not
count) and fires even if the child says nothing: SIGKILL, then a new generation with new pipes.

Who is next in line sends its task ahead, if the model can prepare one; and a turn is over when the answer is there,
though a large body still follows: so the GPU waits for neither.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from stream_worker import metrics
from stream_worker.errors import Reason, TransientFault
from stream_worker.models.answer import Answer, read_answer
from stream_worker.models.keeper import KeptModel, ModelLoadError
from stream_worker.models.process import ChildGoneError, ModelProcess, Said
from stream_worker.models.protocol import ProtocolError

_log = structlog.get_logger(__name__)

ALONE = 10
"""Tasks after a child's death of which none is prepared beside another: so a task that kills is blamed itself."""


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The answer to one task."""

    header: dict[str, Any]
    payload: bytes
    generation: int
    started_at: float
    """When the model got the task, in seconds since the epoch."""
    busy_s: float
    """How long the model worked, by the child's clock."""
    body_s: float = 0.0
    """How long the child took for a body that it made and left while it had its next task already."""


Task = Mapping[str, Any]
"""What a model is asked to do, as JSON."""


@dataclass(slots=True)
class _Call:
    """One `infer`."""

    task: Task | Callable[[], Task]
    payload: bytes
    timeout_s: float
    given: bool = False
    """Whether the child has it already decides what cancelling means."""

    def made(self) -> Task:
        """The task, made if it is not yet."""
        if callable(self.task):
            self.task = self.task()
        return self.task


@dataclass(eq=False)
class ModelHost(KeptModel):
    """One model in one child process, and the tasks that it is given.

    Args, besides those of KeptModel:
        task_timeout_s: one task in the model, unless the call names another.
        fault_reason: of a record at which the model fails with a code that is no `Reason`...
        reasons: ... unless this says another for the code.
    """

    task_timeout_s: float = 120.0
    fault_reason: Reason = Reason.RECONSTRUCT_FAILED
    reasons: Mapping[str, Reason] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._turn = asyncio.Lock()  # asyncio's locks are fair: first come, first served
        self._next = asyncio.Lock()
        self._ids = itertools.count(1)
        self._alone = 0

    async def infer(
        self, task: Task | Callable[[], Task], payload: bytes = b"", timeout_s: float | None = None
    ) -> ModelResult:
        """Have one task done, after those that were asked before it; a function makes one when its turn is next.

        Cancelling the caller takes a waiting task back. One that the child already has runs on, within
        its deadline, and its answer is thrown away before the next task is sent.

        Raises:
            RecordFault: the model found the task at fault.
            TransientFault: the model timed out (MODEL_TIMEOUT), died (MODEL_CRASHED) or failed otherwise.
                It has been replaced, or is being replaced.
            ModelLoadError: there is no child, and a new one can't be started now (an outage of ours).
            ProtocolError: the task can't be sent: it is no JSON, or too large.
        """
        call = _Call(task, payload, timeout_s or self.task_timeout_s)
        work = asyncio.create_task(self._do(call))
        self._keep(work)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not call.given:
                work.cancel()
            raise

    async def _do(self, call: _Call) -> ModelResult:
        async with self._in_turn(call) as ahead:
            process = await self._live()
            call.given = True
            self.counters.tasks += 1
            started_at = time.time()
            with metrics.MODEL_TASK_SECONDS.labels(self.name).time():
                async with self._watched(process, call.timeout_s):
                    if ahead is not None and ahead[0] is process:
                        task_id = ahead[1]
                        said = await process.task(task_id, None, b"")
                    else:
                        task_id = next(self._ids)
                        said = await process.task(task_id, call.made(), call.payload)
                    answer = await self._understood(process, said)
            self._alone = max(0, self._alone - 1)
            self._did(process, answer)
            answer.raise_failure(self.fault_reason, self.reasons)
        # The child has its next task meanwhile.
        body, body_s = said[1], 0.0
        async with self._watched(process, call.timeout_s):
            if said[0].get("body_later"):
                said = await process.body(task_id)
                left = await self._understood(process, said)
                left.raise_failure(self.fault_reason, self.reasons)
                body, body_s = said[1], left.busy_s
            try:
                payload = await body.read()
            except ProtocolError as error:
                await process.kill()
                raise ChildGoneError(str(error)) from None
        return ModelResult(answer.result, payload, process.generation, started_at, answer.busy_s, body_s)

    @asynccontextmanager
    async def _in_turn(self, call: _Call) -> AsyncIterator[tuple[ModelProcess, int] | None]:
        """Until the model is this task's alone: with the child that has prepared it meanwhile, and under which id."""
        async with self._next:
            ahead = await self._prepared(call) if self._turn.locked() else None
            await self._turn.acquire()
        try:
            yield ahead
        finally:
            self._turn.release()

    async def _prepared(self, call: _Call) -> tuple[ModelProcess, int] | None:
        process = self._process
        if process is None or not (process.prepares and process.usable) or self._alone:
            return None
        task_id = next(self._ids)
        try:
            await process.prepare(task_id, call.made(), call.payload)
        except ChildGoneError:  # the task in hand hears of it
            return None
        return process, task_id

    @asynccontextmanager
    async def _watched(self, process: ModelProcess, timeout_s: float) -> AsyncIterator[None]:
        """What a child says within the time that it has. One that says nothing, or nonsense, is killed."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            self.counters.timeouts += 1
            self._alone = ALONE
            _log.error("model hangs, killing it", model=self.name, pid=process.pid, timeout_s=timeout_s)
            await process.kill(show_stacks=True)
            raise TransientFault(
                Reason.MODEL_TIMEOUT,
                f"{self.name} did not answer within {timeout_s:g} s and was killed",
            ) from None
        except ChildGoneError as error:
            if self._stopped:
                raise ModelLoadError("stopped", f"{self.name} was stopped") from None
            self.counters.crashes += 1
            self._alone = ALONE
            raise TransientFault(
                Reason.MODEL_CRASHED, f"the process of {self.name} died in this task: {error}"
            ) from None

    async def _understood(self, process: ModelProcess, said: Said) -> Answer:
        """What a RESULT or a BODY says. Raises ChildGoneError, after killing the child, where that is nothing."""
        answer = read_answer(said[0])
        if answer is None:
            said[1].close()
            await process.kill()
            raise ChildGoneError("it sent what is no answer, and was killed")
        return answer
