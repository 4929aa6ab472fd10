"""A record whose worker dies of it on every try ends in `dead-letters`; all others are done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stream_worker import supervisor, topics
from stream_worker.dead_letters import PREFIX
from stream_worker.errors import Reason
from stream_worker.publish import Publisher
from tests.faults.crash_points.plan import Shot
from tests.faults.service import Photos, end, plan_of, settings_for, started
from tests.integration.test_pipeline import Reader
from tests.integration.test_stage import read

SEED = int(os.environ.get("SEED", "20261124"))
KILLER = "image-7"
IMAGES = 30
MOST_LIVES = 12
"""Far more than it may take: alone in work it may kill its worker only a few times."""


@pytest.mark.timeout(300)
async def test_a_record_that_kills_its_worker_on_every_try_ends_in_dead_letters(
    kafka: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.05, 0.05))
    shots = {"detector-0": [Shot("before process", key=KILLER)] * 100}
    with settings_for(
        kafka, prefix, tmp_path, session_timeout_ms=10_000, detectors=1, reconstructors=1, aggregators=1
    ) as settings:
        photos = Photos(settings, SEED)
        async with (
            started(settings, shots) as running,
            Reader(settings) as live,
            Publisher(settings) as publisher,
        ):
            for _ in range(IMAGES):
                await photos.publish(publisher)
            photos.expected[KILLER] = ("failed", frozenset())
            done = await end(settings, photos.expected, live)
            letters = await read(settings, topics.DEAD_LETTERS, 1)
            starts = {worker.name: worker.starts for worker in running.workers}
        killed = len(plan_of(settings, "detector-0").fired())
    done.require_exactly_right()
    (outcome,) = [event for event in done.fresh.events if event.image_id == KILLER]
    assert outcome.reason is not None
    assert outcome.reason.code == Reason.WORKER_CRASHED
    (letter,) = letters
    headers = dict(letter.headers)
    assert (letter.key or b"").decode() == KILLER
    assert headers[PREFIX + "reason"] == Reason.WORKER_CRASHED.value.encode()
    assert headers[PREFIX + "stage"] == b"detector"
    assert 1 < killed <= MOST_LIVES
    assert starts["detector-0"] == killed + 1, "it lived on once the record was given up"
