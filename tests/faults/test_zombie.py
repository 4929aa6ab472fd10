"""Workers that are stopped in the middle of a transaction and come back when they own nothing any more."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.events import CompletedImageEvent, DetectionEvent
from stream_worker.settings import Settings
from stream_worker.supervisor import Supervisor, Worker
from tests.faults.crash_points.plan import Shot
from tests.faults.service import Photos, end, plan_of, said, settings_for, started, undone
from tests.integration.test_pipeline import Reader

SEED = 20261124
SESSION_MS = 4000
OVER_S = 10.0
"""Beyond the transaction's timeout, and the broker's time to act on it."""


def worker_of(supervisor: Supervisor, name: str) -> Worker:
    return next(worker for worker in supervisor.workers if worker.name == name)


def is_stopped(worker: Worker) -> bool:
    return worker.pid is not None and psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED


async def until(true: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait until `true()`, looking often: there is no event in another process to await."""
    try:
        async with asyncio.timeout(within_s):
            while not true():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not within {within_s} s: {what}")


@asynccontextmanager
async def waking(*workers: Worker) -> AsyncIterator[None]:
    """No worker stays stopped, whatever happens: a stopped one would not hear that it is to end."""
    try:
        yield
    finally:
        for worker in workers:
            if worker.pid is not None:
                os.kill(worker.pid, signal.SIGCONT)


async def records(settings: Settings, topic: str, isolation: str, within_s: float = 30) -> list[bytes]:
    """The values of a topic up to what is its end now; under read_committed that waits for open transactions to end."""
    name, servers = settings.kafka.prefix + topic, settings.kafka.bootstrap_servers
    sources = [TopicPartition(name, number) for number in range(settings.kafka.partitions)]
    everything = AIOKafkaConsumer(bootstrap_servers=servers)
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, isolation_level=isolation, auto_offset_reset="earliest")
    await asyncio.gather(everything.start(), consumer.start())
    try:
        consumer.assign(sources)
        ends = await everything.end_offsets(sources)
        got: list[bytes] = []
        async with asyncio.timeout(within_s):
            while [source for source in sources if await consumer.position(source) < ends[source]]:
                for some in (await consumer.getmany(timeout_ms=200)).values():
                    got += [record.value for record in some]
    finally:
        await asyncio.gather(everything.stop(), consumer.stop())
    return got


def lost(settings: Settings, worker: str) -> list[str]:
    """What a zombie says when it finds that it owns nothing any more."""
    return [
        line["error"]
        for line in said(settings, worker)
        if line["event"] in ("this worker ends", "lane starts over") and "error" in line
    ]


@pytest.mark.timeout(300)
async def test_a_zombie_with_an_open_transaction_comes_back_after_others_have_done_its_work(
    kafka: str, prefix: str, tmp_path: Path
) -> None:
    shots = {
        "reconstructor-1": [Shot("before offsets", signal=signal.SIGSTOP)],
        "aggregator-1": [Shot("before commit", topic=topics.COMPLETED, signal=signal.SIGSTOP)],
    }
    with settings_for(
        kafka, prefix, tmp_path, session_timeout_ms=SESSION_MS, detectors=1, reconstructors=2, aggregators=2
    ) as settings:
        photos = Photos(settings, SEED)
        # One's transaction would stay open long enough to commit: only its successor, who has the same id, ends it.
        patient = {"transaction_timeout_ms": 300_000}
        others = {"reconstructor-1": settings.model_copy(update={"kafka": settings.kafka.model_copy(update=patient)})}
        async with started(settings, shots, others) as supervisor, Reader(settings) as live:
            zombies = [worker_of(supervisor, name) for name in shots]
            async with waking(*zombies):
                await photos.publish_many(30)
                await until(lambda: all(map(is_stopped, zombies)), 60, "both are stopped")
                # Everything is done by others, the zombies' records too, while the zombies are stopped.
                await live.until(len(photos.expected), 120)
                assert all(map(is_stopped, zombies))
                seen = {event.image_id for event in live.events}
                written = await records(settings, topics.COMPLETED, "read_uncommitted")
                assert len(written) > len(live.events), "the zombie had written nothing that could be seen twice"
                assert {decode(CompletedImageEvent, value).image_id for value in written} == seen
                starts = [worker.starts for worker in zombies]
                await until(lambda: plan_of(settings, "aggregator-1").age_s() > OVER_S, 60, "the timeout is over")
            await until(lambda: all(lost(settings, name) for name in shots), 60, "both have found out")
            await photos.publish_many(10)
            done = await end(settings, photos.expected, live)
    done.require_exactly_right()
    assert starts == [1, 1]
    assert [len(plan_of(settings, name).fired()) for name in shots] == [1, 1]
    assert "is owned by another process now" in lost(settings, "reconstructor-1")[0]
    assert lost(settings, "aggregator-1")[0] == "the transaction did not end in time"


@pytest.mark.timeout(300)
async def test_a_zombie_that_nobody_replaced_is_fenced_by_its_transactions_timeout(
    kafka: str, prefix: str, tmp_path: Path
) -> None:
    shots = {"detector-0": [Shot("before commit", outputs=2, signal=signal.SIGSTOP)]}
    with settings_for(
        kafka, prefix, tmp_path, session_timeout_ms=SESSION_MS, detectors=1, reconstructors=0, aggregators=0
    ) as settings:
        photos = Photos(settings, SEED)
        async with started(settings, shots) as supervisor:
            (zombie,) = supervisor.workers
            async with waking(zombie):
                await photos.publish_many(5)
                await until(lambda: is_stopped(zombie), 60, "it is stopped")
                assert await records(settings, topics.DETECTIONS, "read_uncommitted")
                # The broker gives the transaction up. What was written in it is never seen.
                assert await records(settings, topics.DETECTIONS, "read_committed", within_s=60) == []
                assert is_stopped(zombie)
            await until(lambda: lost(settings, "detector-0"), 60, "it has found out")
            async with asyncio.timeout(60):
                while await undone(settings, ["detector"]):  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
            manifests = await records(settings, topics.DETECTIONS, "read_committed")
    assert Counter(decode(DetectionEvent, value).image_id for value in manifests) == Counter(list(photos.expected))
