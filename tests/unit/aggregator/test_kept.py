"""States of lanes that were taken away, and may come back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from stream_worker.aggregator.join import Join
from stream_worker.aggregator.kept import KeptLanes


def join() -> Join:
    return Join(timedelta(seconds=60), 2**20)


def kept_lanes(for_s: float = 60) -> tuple[KeptLanes, list[None]]:
    changes: list[None] = []
    return KeptLanes(for_s, lambda: changes.append(None)), changes


async def test_comes_back_where_the_barriers_are_neighbours() -> None:
    kept, _ = kept_lanes()
    held = join()
    kept.sealed(3, 41)
    kept.keep(3, held)
    assert len(kept) == 1
    assert kept.take(3, 42) is held
    assert len(kept) == 0
    assert kept.take(3, 42) is None, "taken twice"


async def test_does_not_come_back_where_anything_lies_between() -> None:
    kept, _ = kept_lanes()
    for barrier in (41, 43, 40):
        kept.sealed(3, 41)
        kept.keep(3, join())
        assert kept.take(3, barrier) is None
        assert len(kept) == 0


async def test_is_nothing_without_a_seal_or_where_the_seal_does_not_hold() -> None:
    kept, _ = kept_lanes()
    assert kept.take(3, 1) is None
    kept.sealed(3, 41)
    kept.keep(3, None)
    assert kept.take(3, 42) is None


async def test_is_forgotten_after_a_while() -> None:
    kept, changes = kept_lanes(0.05)
    kept.sealed(3, 41)
    kept.keep(3, join())
    await asyncio.sleep(0.2)
    assert len(kept) == 0
    assert changes == [None]
    assert kept.take(3, 42) is None


async def test_clear_forgets_all() -> None:
    kept, changes = kept_lanes(0.05)
    kept.sealed(3, 41)
    kept.keep(3, join())
    kept.clear()
    await asyncio.sleep(0.2)
    assert (len(kept), changes) == (0, [])
