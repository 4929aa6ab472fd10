"""A few threads for calls that may never return: they keep neither their callers nor the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class _Job:
    """A call that waits for a thread. One that is given up lets go of its bytes at once: the queue may be stuck."""

    __slots__ = ("call", "future")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call: Callable[[], Any] | None = call
        self.future: Future[Any] = Future()
        self.future.add_done_callback(self._forget)

    def _forget(self, _: Future[Any]) -> None:
        self.call = None


class Threads:
    """Up to `count` threads, started as they are needed.

    Not a ThreadPoolExecutor: Python waits for the threads of those when the process ends, whatever `shutdown` was
    told, and a thread that is stuck in a dead mount would keep a worker from ending. Only for work that may be
    cut off at any point.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = 0
        self._unfinished = 0
        self._lock = threading.Lock()
        self._closed = False

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns or raises. A cancelled call that waits for a thread is never begun."""
        if self._closed:
            raise RuntimeError(f"the {self._name} threads are closed")
        job = _Job(partial(work, *arguments))
        self._jobs.put(job)
        with self._lock:
            self._unfinished += 1
            if self._started < min(self._count, self._unfinished):
                self._started += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        result: T = await asyncio.wrap_future(job.future)
        return result

    def close(self) -> None:
        """Cancel what waits, and let the threads end when they can. None is waited for."""
        self._closed = True
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is not None:
                job.future.cancel()
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.set_running_or_notify_cancel() and job.call is not None:
                try:
                    job.future.set_result(job.call())
                except BaseException as error:  # noqa: BLE001  # it is the caller's, whatever it is
                    job.future.set_exception(error)
            del job  # a thread that waits holds nobody's result
            with self._lock:
                self._unfinished -= 1
