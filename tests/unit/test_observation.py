"""What a worker knows of its backlog, and of its own loop while that stands still."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from stream_worker import metrics
from stream_worker.observation import Backlog, Observation, backlog

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("end", "position", "in_hand", "oldest_ms", "before", "expected"),
    [
        # Nothing waits; the end may be of before what was read since.
        (10, 10, 0, None, None, Backlog(0, 10, None)),
        (8, 10, 0, None, Backlog(2, 8, 5.0), Backlog(0, 10, None)),
        # In hand counts until it is committed, and is as old as its timestamp says.
        (10, 10, 3, 900_000, None, Backlog(3, 10, 900_000)),
        (14, 10, 3, 900_000, Backlog(3, 10, 1.0), Backlog(7, 10, 900_000)),
        # Not read yet: since it was first seen to wait, for as long as nothing is read.
        (14, 10, 0, None, None, Backlog(4, 10, NOW)),
        (15, 10, 0, None, Backlog(4, 10, 950_000.0), Backlog(5, 10, 950_000.0)),
        (15, 12, 0, None, Backlog(4, 10, 950_000.0), Backlog(3, 12, NOW)),
        (15, 10, 0, None, Backlog(0, 10, None), Backlog(5, 10, NOW)),
    ],
)
def test_a_backlog(
    end: int, position: int, in_hand: int, oldest_ms: float | None, before: Backlog | None, expected: Backlog
) -> None:
    assert backlog(end, position, in_hand, oldest_ms, before, NOW) == expected


def test_an_age_is_never_negative() -> None:
    assert Backlog(1, 0, 1000.0).age_s(3500.0) == 2.5
    assert Backlog(1, 0, 4000.0).age_s(3500.0) == 0.0
    assert Backlog(0, 0, None).age_s(3500.0) == 0.0


async def test_the_loops_delay_is_known_while_the_loop_stands_still() -> None:
    observation = Observation("standing", 1, 300.0, lanes=list, room=lambda: 1, still_s=lambda: 0.0)
    looking = asyncio.create_task(observation.run(None, 300.0))
    await asyncio.sleep(0)
    known = threading.Event()

    def scrape() -> None:
        while not metrics.REGISTRY.get_sample_value("stream_worker_loop_delay_seconds", {"stage": "standing"}):
            time.sleep(0.05)
        known.set()

    threading.Thread(target=scrape, daemon=True).start()
    assert known.wait(60), "nothing tells of it"  # the loop can't run meanwhile
    await asyncio.sleep(0)
    looking.cancel()
