"""A second process with the same ids: the two throw each other out, say so, and break nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stream_worker import supervisor
from stream_worker.errors import Exit
from stream_worker.supervisor import Supervisor, Worker
from tests.faults.service import Photos, end, said, settings_for, started
from tests.integration.test_pipeline import Reader

SEED = 20261124
NAME = "aggregator-0"


@pytest.mark.timeout(300)
async def test_a_second_process_with_the_same_name_is_named_and_outcomes_stay_exact(
    kafka: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", (0.2, 0.2))

    def accused(log: Path) -> bool:
        """Whether one of the two said that there is another."""
        texts = [file.read_text() for file in (log / f"{NAME}.log", tmp_path / "logs" / f"{NAME}.log") if file.exists()]
        return any("another process seems to use the name" in text and f".{NAME}:" in text for text in texts)

    with settings_for(
        kafka, prefix, tmp_path, session_timeout_ms=10_000, detectors=1, reconstructors=1, aggregators=1
    ) as settings:
        photos = Photos(settings, SEED)
        async with started(settings, {}) as first, Reader(settings) as live:
            twin = Worker(NAME, ["aggregate", "--name", NAME])
            async with Supervisor(settings, [twin], tmp_path / "second") as second:
                await second.ready(120)
                await photos.publish_many(10)  # they take the work from each other ...
                await live.until(10, 120)
                async with asyncio.timeout(120):  # ... and, with nothing to do, only the name
                    while not accused(tmp_path / "second"):  # noqa: ASYNC110
                        await asyncio.sleep(0.2)
                await photos.publish_many(10)
                await live.until(20, 120)
            # The second one is gone: the first has the name for itself again.
            await photos.publish_many(5)
            done = await end(settings, photos.expected, live)
            starts = [next(one for one in first.workers if one.name == NAME).starts, twin.starts]
    done.require_exactly_right()
    assert sum(starts) > 2, "the one that loses ends, and its supervisor tries again"
    assert f"code={int(Exit.FATAL)}" in capsys.readouterr().out
    assert said(settings, NAME)[-1]["event"] == "drained"
