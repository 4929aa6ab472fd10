"""Together or alone, and nobody is left standing."""

from __future__ import annotations

import asyncio
import random

from stream_worker.turnstile import Turnstile


async def test_alone_means_alone_and_everybody_gets_through() -> None:
    turnstile = Turnstile()
    numbers = random.Random(7)
    inside: list[bool] = []
    most, done = 0, 0

    async def work(alone: bool) -> None:
        nonlocal most, done
        await asyncio.sleep(numbers.random() / 100)
        async with turnstile.alone() if alone else turnstile.shared():
            inside.append(alone)
            assert not any(inside) or len(inside) == 1
            most = max(most, len(inside))
            await asyncio.sleep(numbers.random() / 1000)
            inside.remove(alone)
            done += 1

    async with asyncio.timeout(20):
        await asyncio.gather(*(work(numbers.random() < 0.2) for _ in range(200)))
    assert done == 200
    assert most > 1


async def test_one_that_is_cancelled_while_it_waits_or_works_holds_up_nobody() -> None:
    turnstile = Turnstile()
    entered = asyncio.Event()

    async def stay(alone: bool) -> None:
        async with turnstile.alone() if alone else turnstile.shared():
            entered.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(20):
        inside = asyncio.create_task(stay(alone=False))
        await entered.wait()
        waiting = asyncio.create_task(stay(alone=True))
        behind = asyncio.create_task(stay(alone=False))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        entered.clear()
        waiting.cancel()
        await entered.wait()  # the one behind it went in
        for task in (inside, behind):
            task.cancel()
        await asyncio.wait({inside, behind, waiting})
        async with turnstile.alone():
            pass
