"""A few threads for calls that may never return: they keep neither their callers nor the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]


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
        self._idle = 0
        self._lock = threading.Lock()
        self._closed = False

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns or raises. A cancelled call that waits for a thread is never begun."""
        if self._closed:
            raise RuntimeError(f"the {self._name} threads are closed")
        future: Future[T] = Future()
        self._jobs.put((future, work, arguments))
        with self._lock:
            if self._started < self._count and self._idle < self._jobs.qsize():
                self._started += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Cancel what waits, and let the threads end when they can. None is waited for."""
        self._closed = True
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is not None:
                job[0].cancel()
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            job = self._jobs.get()
            with self._lock:
                self._idle -= 1
            if job is None:
                return
            future, work, arguments = job
            if future.set_running_or_notify_cancel():
                try:
                    result = work(*arguments)
                except BaseException as error:  # noqa: BLE001  # it is the caller's, whatever it is
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del job, future, work, arguments  # a thread that waits holds nobody's bytes
