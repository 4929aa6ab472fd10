"""The store's threads: none starves another's work, and what is given up holds nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from stream_worker.store.threads import Threads


class Bytes:
    """Stands for a photo: something that can be seen to be let go."""


async def test_as_many_calls_as_threads_run_at_once() -> None:
    threads = Threads(4, "test")
    await threads.run(int)  # one thread is there, and idle
    together = threading.Barrier(4)
    await asyncio.wait_for(asyncio.gather(*(threads.run(together.wait, 30) for _ in range(4))), 60)
    threads.close()


async def test_what_work_raises_is_the_callers() -> None:
    threads = Threads(1, "test")
    with pytest.raises(ValueError, match="invalid literal"):
        await threads.run(int, "x")
    assert await threads.run(int, "7") == 7
    threads.close()


async def test_a_call_that_is_given_up_before_it_began_holds_nothing() -> None:
    """With every thread stuck for hours, calls that are made and given up again must not pile up photos."""
    threads = Threads(1, "test")
    stuck, ran = threading.Event(), threading.Event()
    first = asyncio.create_task(threads.run(stuck.wait, 60))
    photo = Bytes()
    held = weakref.ref(photo)
    second = asyncio.create_task(threads.run(lambda _: ran.set(), photo))
    await asyncio.sleep(0)
    del photo
    second.cancel()
    await asyncio.wait({second})  # not awaited itself: the error would hold the frames, and those the photo
    del second
    await asyncio.sleep(0)
    gc.collect()
    assert held() is None
    stuck.set()
    assert await first
    assert await threads.run(int) == 0
    assert not ran.is_set()
    threads.close()


async def test_closing_waits_for_nobody_and_cancels_what_waits() -> None:
    threads = Threads(1, "test")
    stuck = threading.Event()
    calls = [asyncio.create_task(threads.run(stuck.wait, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    threads.close()
    with pytest.raises(asyncio.CancelledError):
        await calls[1]
    with pytest.raises(RuntimeError):
        await threads.run(int)
    stuck.set()
    assert await calls[0]
