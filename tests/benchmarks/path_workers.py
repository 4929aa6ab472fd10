"""Processes that `paths.py` compares: `python -m tests.benchmarks.path_workers HOW WHAT [PROFILE]`.

Settings come by the environment.

HOW: `service`, our own runner (`stage.py`); `same`, a bare loop around the same transform, record for record; `bare`,
the same loop around a transform that only parses JSON and writes as many records of the same size, unchecked.
WHAT: `detector`, with the model, the fetch and the store left out, or `aggregator`.
PROFILE: a file, for `python -m pstats`, of what the main thread did.
"""

from __future__ import annotations

import asyncio
import cProfile
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from stream_worker import memory, telemetry, topics
from stream_worker.aggregator.join import Join
from stream_worker.aggregator.service import Aggregator
from stream_worker.contract import decode
from stream_worker.detector import Detector
from stream_worker.events import ImageEvent
from stream_worker.models.results import FoundObject
from stream_worker.records import Output, Received
from stream_worker.settings import Settings, load
from stream_worker.stage import Stage, _received
from stream_worker.transaction import BATCH_BYTES
from tests.benchmarks.messages import PHOTO
from tests.benchmarks.plain_join import taken

Transform = Callable[[Received], Awaitable[list[Output]]]

OBJECTS = 3
"""In each photo that the detector without a model is given."""
FOUND = [
    FoundObject(
        label="sofa",
        confidence=0.9,
        box=[1.5, 2.5, 30.25, 40.125],
        mask={"size": [960, 1280], "counts": "e^c0" * 60},
        area_px=100_000,
    )
] * OBJECTS
"""With masks of 240 bytes, as a piece of furniture has."""


class Modelless(Detector):
    """A detector that finds the same in each photo, and looks at none: what is left is the path of messages."""

    async def start(self) -> None:
        self._host.info.update(model="none", version="1", weights_sha256=None)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._balancer.stop)
            await self._balancer.start()
            self._resources = stack.pop_all()

    async def process(self, record: Received) -> list[Output]:
        event = decode(ImageEvent, record.value)
        await self._balancer.look()
        return self._outputs(record, event, PHOTO, FOUND, {"queue": 0.0123, "fetch": 0.0456, "detect": 0.0345})


class Careless:
    """Transforms that parse JSON and write as many records of the same size as the service does: its bare minimum."""

    def __init__(self, detector: Modelless | None, partitions: int) -> None:
        """`detector`: whose outputs of one record are to be repeated; None: the join is meant."""
        self._detector = detector
        self._partitions = partitions
        self._templates: list[tuple[Output, dict[str, Any]]] = []
        self._joins: dict[str, dict[str, Any]] = {}

    async def __call__(self, record: Received) -> list[Output]:
        """The outputs of a record."""
        if self._detector is None:
            return self._joined(record)
        if not self._templates:
            made = await self._detector.process(record)
            self._templates = [(one, orjson.loads(one.value or b"")) for one in made]
        return self._detected(record)

    def _detected(self, record: Received) -> list[Output]:
        name = orjson.loads(record.value or b"")["image_id"]
        outputs = []
        for number, (one, event) in enumerate(self._templates):
            partition = None if one.partition is None else (OBJECTS * record.offset + number) % self._partitions
            value = orjson.dumps(event | {"image_id": name})
            outputs.append(Output(one.topic, name.encode(), value, one.headers, partition))
        return outputs

    def _joined(self, record: Received) -> list[Output]:
        event = orjson.loads(record.value or b"")
        name = event["image_id"]
        state, outcome = taken(self._joins.get(name), event)
        if outcome is None:
            self._joins[name] = state
            key = orjson.dumps([name, event["run"], event.get("object_id")])
            return [Output(topics.CHANGELOG, key, record.value, record.headers, record.partition)]
        self._joins.pop(name, None)
        pieces = [None, *(one["object_id"] for one in outcome["objects"])]
        return [
            Output(topics.COMPLETED, name.encode(), orjson.dumps(outcome), record.headers),
            *(
                Output(topics.CHANGELOG, orjson.dumps([name, event["run"], piece]), None, (), record.partition)
                for piece in pieces
            ),
        ]


async def bare_loop(settings: Settings, group: str, inputs: tuple[str, ...], transform: Transform) -> None:
    """Consume, transform, produce, in one transaction after the other: what aiokafka alone can do, one at a time."""
    kafka = settings.kafka
    async with (
        AIOKafkaConsumer(
            *(kafka.prefix + topic for topic in inputs),
            bootstrap_servers=kafka.bootstrap_servers,
            group_id=kafka.prefix + group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            partition_assignment_strategy=[RangePartitionAssignor],
        ) as consumer,
        AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap_servers,
            transactional_id=f"{kafka.prefix}{group}",
            max_batch_size=BATCH_BYTES,
        ) as producer,
    ):
        while True:
            polled = await consumer.getmany(timeout_ms=200, max_records=settings.stage.batch)
            if not polled:
                continue
            async with producer.transaction():
                sent = []
                for source, records in polled.items():
                    topic = source.topic.removeprefix(kafka.prefix)
                    for output in await _transformed(transform, topic, records):
                        where, headers = kafka.prefix + output.topic, list(output.headers)
                        sent.append(
                            await producer.send(where, output.value, output.key, output.partition, headers=headers)
                        )
                await asyncio.gather(*sent)
                offsets = {source: records[-1].offset + 1 for source, records in polled.items()}
                await producer.send_offsets_to_transaction(offsets, kafka.prefix + group)


async def _transformed(transform: Transform, topic: str, records: list[ConsumerRecord]) -> list[Output]:
    """Records of a partition side by side, as the service has them, in their order."""
    made = await asyncio.gather(*(transform(_received(topic, record)) for record in records))
    return [output for outputs in made for output in outputs]


async def work(how: str, what: str, settings: Settings) -> None:
    """Until this process is told to end."""
    group: Modelless | Aggregator = Modelless(settings) if what == "detector" else Aggregator(settings)
    loop, ours = asyncio.get_running_loop(), asyncio.current_task()
    assert ours is not None
    if how == "service":
        stage = Stage(group, settings)
        loop.add_signal_handler(signal.SIGTERM, stage.stop)
        await stage.run()
        return
    loop.add_signal_handler(signal.SIGTERM, ours.cancel)
    await group.start()
    if isinstance(group, Aggregator):
        grace = timedelta(seconds=settings.aggregator.grace_s)
        group._lanes.update({lane: Join(grace, 2**30) for lane in range(settings.kafka.partitions)})
    detector = group if isinstance(group, Modelless) else None
    transform = Careless(detector, settings.kafka.partitions) if how == "bare" else group.process
    try:
        await bare_loop(settings, group.name, group.topics, transform)
    except asyncio.CancelledError:
        await group.stop()


def main() -> None:
    how, what, *profile = sys.argv[1:]
    settings = load()
    memory.give_back()
    telemetry.configure(settings.log, stage=what)
    if not profile:
        asyncio.run(work(how, what, settings))
        return
    profiler = cProfile.Profile()
    profiler.runcall(asyncio.run, work(how, what, settings))
    profiler.dump_stats(profile[0])


if __name__ == "__main__":
    main()
