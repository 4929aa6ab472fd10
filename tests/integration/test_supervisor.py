"""Workers under the supervisor: restarted when they die, ended when it ends, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from stream_worker import topics
from stream_worker.errors import Exit, UserError
from stream_worker.settings import Kafka, Settings
from stream_worker.settings import Stage as StageSettings
from stream_worker.supervisor import Supervisor, Worker


@pytest.fixture
async def settings(kafka: str, prefix: str) -> Settings:
    made = Settings(
        kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=2, session_timeout_ms=6000),
        stage=StageSettings(drain_s=2),
    )
    await topics.create(made.kafka)
    return made


def aggregator(name: str = "aggregator-0") -> Worker:
    return Worker(name, ["aggregate", "--name", name])


async def gone(pid: int, within_s: float = 30) -> bool:
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return True
    await asyncio.to_thread(psutil.wait_procs, [process], within_s)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


async def test_a_killed_worker_is_started_again(settings: Settings, tmp_path: Path) -> None:
    async with Supervisor(settings, [aggregator()], tmp_path) as supervisor:
        await supervisor.ready(60)
        worker = supervisor.workers[0]
        first = worker.pid
        assert first is not None
        worker.ready.clear()
        os.kill(first, signal.SIGKILL)
        await supervisor.ready(60)
        second = worker.pid
        assert second not in (None, first)
    assert await gone(second or 0)


async def test_leaving_drains_and_every_worker_ends_by_itself(settings: Settings, tmp_path: Path) -> None:
    async with Supervisor(settings, [aggregator("a"), aggregator("b")], tmp_path) as supervisor:
        await supervisor.ready(60)
        pids = [worker.pid for worker in supervisor.workers]
    assert all([await gone(pid or 0, 0.1) for pid in pids])
    for name in ("a", "b"):
        assert '"drained"' in (tmp_path / f"{name}.log").read_text()


async def test_a_worker_that_can_not_start_is_told_and_not_tried_for_ever(settings: Settings, tmp_path: Path) -> None:
    broken = Worker("detector-0", ["detect"], {"STREAM_WORKER_DETECTOR": json.dumps({"weights": "/nowhere.pt"})})
    async with Supervisor(settings, [broken], tmp_path) as supervisor:
        with pytest.raises(UserError, match=r"detector-0: .*/nowhere\.pt") as error:
            await supervisor.ready(60)
        assert error.value.exit_code is Exit.WEIGHTS
        assert broken.starts == 1


async def test_a_worker_that_is_late_is_named(settings: Settings, tmp_path: Path) -> None:
    async with Supervisor(settings, [aggregator()], tmp_path) as supervisor:
        with pytest.raises(UserError, match="aggregator-0"):
            await supervisor.ready(0.01)


async def test_workers_die_with_a_supervisor_that_is_killed(settings: Settings, tmp_path: Path) -> None:
    """SIGKILL leaves no time to tell anybody: the kernel ends the children."""
    up = subprocess.Popen(  # noqa: ASYNC220  # its whole life is this test's
        [sys.executable, "-m", "stream_worker", "up", "--detectors", "0", "--reconstructors", "0"],
        env={
            **os.environ,
            "STREAM_WORKER_KAFKA": json.dumps(settings.kafka.model_dump(mode="json")),
            "STREAM_WORKER_LOCAL": json.dumps({"data_dir": str(tmp_path)}),
            "STREAM_WORKER_LOG": json.dumps({"format": "json"}),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert up.stderr is not None
        while '"ready"' not in (line := await asyncio.to_thread(up.stderr.readline)):
            assert line, "up ended before it was ready"
        children = psutil.Process(up.pid).children(recursive=True)
        assert children
    finally:
        up.kill()
        up.wait()
    for child in children:
        assert await gone(child.pid)
