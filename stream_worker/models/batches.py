"""Photos given to a detector's model several at a time, and each told its own outcome.

A batch is made when the model would have it next: of what has come until then, so that batches are large where
photos wait, and a lone photo waits no longer than `wait_s` for company.

A batch that fails as a whole (the model crashed, hung, ran out of memory) is nobody's failure yet: each of its photos
is tried again, alone. What fails then is to blame, and its batch-mates have lost nothing but time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import orjson

from stream_worker import metrics
from stream_worker.closing import end
from stream_worker.errors import RecordFault
from stream_worker.models.answer import read_answer
from stream_worker.models.host import ModelHost, ModelResult, Task

WARY = 4
"""Times the size of a batch that has failed: so many photos after it go alone, the culprit's next try among them."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """One photo."""

    task: Task
    outcome: asyncio.Future[Mapping[str, Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    alone: bool = False


@dataclass(eq=False)
class Batches:
    """The way to a model that says, when it is loaded, how many photos it takes at once (`batch`).

    Such a model gets `{"photos": [task, ...]}` and answers with a body: a JSON list of as many, each `{"objects", ...}`
    as a single answer would be, or a `fault` or `error` as in a RESULT (`protocol.py`). One that says nothing of the
    kind gets one photo at a time.

    Use as an async context manager, within the host's.
    """

    host: ModelHost
    wait_s: float

    def __post_init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._given: set[asyncio.Task[None]] = set()
        self._wary = 0

    async def __aenter__(self) -> Self:
        self._gathering = asyncio.create_task(self._gather(), name=f"batches-{self.host.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (self._gathering, *self._given):
            await end(task)
        for one in self._waiting:
            one.outcome.cancel()

    async def infer(self, task: Task) -> Mapping[str, Any]:
        """The model's answer for one photo. Raises as `ModelHost.infer`."""
        if self._size is None:
            return (await self.host.infer(task)).header
        one = _Waiting(task)
        self._waiting.append(one)
        self._tell()
        return await one.outcome

    @property
    def _size(self) -> int | None:
        said = self.host.info.get("batch")
        return said if isinstance(said, int) and said > 0 else None

    def _tell(self) -> None:
        self._some.set()
        if self._wary or len(self._waiting) >= (self._size or 1):
            self._full.set()

    async def _gather(self) -> None:
        """One batch after the other comes to the head of the model's line, and takes what waits then."""
        while True:
            await self._some.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.wait_s):
                    await self._full.wait()
            taken = asyncio.Event()
            given = asyncio.create_task(self._give(taken))
            self._given.add(given)
            given.add_done_callback(self._given.discard)
            await taken.wait()

    async def _give(self, taken: asyncio.Event) -> None:
        batch: list[_Waiting] = []

        def made() -> Task:
            batch.extend(self._next())
            taken.set()
            return {"photos": [one.task for one in batch]}

        try:
            result = await self.host.infer(made)
            answers = await asyncio.to_thread(self._answers, result, len(batch))
        except asyncio.CancelledError:
            for one in batch:
                one.outcome.cancel()
            raise
        except RecordFault as fault:
            if len(batch) > 1:
                self._try_alone(batch)
            else:
                _fail(batch, fault)
        except Exception as error:  # noqa: BLE001  (whatever it is, those who wait for it must hear of it)
            _fail(batch or self._next(), error)
        else:
            _tell_each(batch, answers, self.host)
        finally:
            taken.set()

    def _answers(self, result: ModelResult, count: int) -> list[Any]:
        """What the body says of each photo. Raises RecordFault where it has not the form of an answer."""
        with suppress(orjson.JSONDecodeError):
            answers = orjson.loads(result.payload)
            if isinstance(answers, list) and len(answers) == count:
                return answers
        raise RecordFault(self.host.fault_reason, f"the model's answer for {count} photos is no list of as many")

    def _next(self) -> list[_Waiting]:
        """Those of the next batch. Nobody waits any more for one that was cancelled."""
        batch: list[_Waiting] = []
        most = 1 if self._wary else self._size or 1
        while self._waiting and len(batch) < most and not (batch and self._waiting[0].alone):
            one = self._waiting.popleft()
            if not one.outcome.done():
                batch.append(one)
            if one.alone:
                break
        self._wary = max(0, self._wary - len(batch))
        if not self._waiting:
            self._some.clear()
            self._full.clear()
        elif not self._wary and len(self._waiting) < (self._size or 1):
            self._full.clear()
        if batch:
            metrics.BATCH_PHOTOS.labels(self.host.name).observe(len(batch))
        return batch

    def _try_alone(self, batch: list[_Waiting]) -> None:
        for one in batch:
            one.alone = True
        self._waiting.extendleft(reversed(batch))
        self._wary = WARY * len(batch)
        self._tell()


def _tell_each(batch: list[_Waiting], answers: list[Any], host: ModelHost) -> None:
    for one, said in zip(batch, answers, strict=True):
        try:
            header = said if isinstance(said, dict) else {}
            answer = read_answer({**header, "result": said, "busy_s": 0.0})
            if answer is None:
                raise RecordFault(host.fault_reason, "the model's answer for a batch is none for this photo")
            answer.raise_failure(host.fault_reason, host.reasons)
        except RecordFault as fault:
            _fail([one], fault)
        else:
            if not one.outcome.done():
                one.outcome.set_result(answer.result)


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for one in batch:
        if not one.outcome.done():
            one.outcome.set_exception(error)
