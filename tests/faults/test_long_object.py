"""An object that takes twice the longest time between two polls causes no rebalance: polling goes on meanwhile."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer

from stream_worker import topics
from stream_worker.contract import decode, encode
from stream_worker.events import Mask, Model, ObjectEvent, PhotoRef, ReconstructionEvent, object_id, utc_now
from stream_worker.geometry import masks
from stream_worker.reconstructor import Reconstructor
from stream_worker.settings import Kafka, Local, Settings
from stream_worker.settings import Reconstructor as ReconstructorSettings
from stream_worker.stage import Stage
from stream_worker.store import open_store
from tests.faults.crash_points.plan import ROOT
from tests.integration.test_stage import read
from tests.staging import running
from tests.stubs import SIDE, photo

POLL_INTERVAL_MS = 3000
LONG_S = 2 * POLL_INTERVAL_MS / 1000 + 0.5
OBJECTS = 9
"""More than the window holds, the long one first: all that time, nothing more may be taken."""


async def send(settings: Settings, labels: list[str]) -> list[str]:
    """One object of each label, all in one photo and one partition; their ids."""
    async with open_store(settings) as store:
        blob = await store.put_content("images", photo(1, len(labels)), "image/png")
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    await producer.start()
    now, ids = utc_now(), []
    for index, label in enumerate(labels):
        mask = np.zeros((SIDE, SIDE), bool)
        mask[4 + index : 20 + index, 4:20] = True
        event = ObjectEvent(
            object_id=object_id("image", "live", index),
            image_id="image",
            run="live",
            index=index,
            count=len(labels),
            image=PhotoRef(**blob.model_dump(), width=SIDE, height=SIDE),
            label=label,
            confidence=0.9,
            box=[4, 4 + index, 20, 20 + index],
            mask=Mask(**masks.encode(mask)),
            area_px=256,
            detector=Model(name="none", version="1"),
            published_at=now,
            detected_at=now,
            deadline_at=now,
        )
        ids.append(event.object_id)
        topic = settings.kafka.prefix + topics.OBJECTS
        await producer.send_and_wait(topic, encode(event), key=event.object_id.encode(), partition=0)
    await producer.stop()
    return ids


@pytest.mark.timeout(180)
async def test_an_object_of_twice_the_poll_interval_causes_no_rebalance(
    kafka: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        kafka=Kafka.model_validate(
            {
                "bootstrap_servers": kafka,
                "prefix": prefix,
                "partitions": 2,
                "session_timeout_ms": 6000,
                "max_poll_interval_ms": POLL_INTERVAL_MS,
            }
        ),
        local=Local(data_dir=tmp_path),
        reconstructor=ReconstructorSettings(model="tests.faults.slow_models:Slow", threads=1, task_timeout_s=30),
    )
    await topics.create(settings.kafka)
    assigned = []
    listen = Stage.on_partitions_assigned

    async def counted(stage: Stage, partitions: Any) -> None:
        assigned.append(stage._consumer._coordinator.generation)
        await listen(stage, partitions)

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the model's process has no other way to its class
    monkeypatch.setattr(Stage, "on_partitions_assigned", counted)
    group = Reconstructor(settings)
    async with running(group, settings) as stage:
        ids = await send(settings, [f"{LONG_S} s", *(f"quick {index}" for index in range(1, OBJECTS))])
        got = await read(settings, topics.RECONSTRUCTIONS, OBJECTS, within_s=60)
        assert [stage._consumer._coordinator.generation] == assigned, "the group was rebalanced"
    results = [decode(ReconstructionEvent, record.value) for record in got]
    assert Counter(one.object_id for one in results) == Counter(ids)
    assert {one.status for one in results} == {"reconstructed"}
    assert max(one.times["reconstruct"] for one in results) >= 2 * POLL_INTERVAL_MS / 1000
    assert group.window < OBJECTS
