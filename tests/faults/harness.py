"""The real processes on a real Kafka under a seeded schedule of faults, and what must come out of it all the same."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from stream_worker.audit.findings import Report
from stream_worker.audit.run import audit
from stream_worker.events import CompletedImageEvent, object_id
from stream_worker.local_kafka import LocalKafka
from stream_worker.publish import Publisher
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Reconstructor, Settings, Stage, Up
from stream_worker.supervisor import Supervisor, Worker
from stream_worker.up import running
from tests.integration.test_pipeline import Expected, Reader, outcome
from tests.photo_server import Answer, serving
from tests.stubs import Faulty, photo

SESSION_MS = 6000
POISON = {Faulty.REFUSE: "detect_failed", Faulty.CRASH: "model_crashed"}


@dataclass(frozen=True)
class Plan:
    """What is published in what order, and what must come of it."""

    events: list[tuple[str, int]]  # image_id and number of objects (or a poison number), duplicates included
    expected: Expected
    statuses: Counter[str]


def plan(seed: int, images: int, *, most_objects: int = 5, poison: float = 0.01, duplicates: float = 0.2) -> Plan:
    """`images` photos of which a share is poison and a share is published twice, all by the seed."""
    numbers = random.Random(seed)
    events: list[tuple[str, int]] = []
    expected: Expected = {}
    for number in range(images):
        image_id = f"image-{number}"
        count = numbers.choice(list(POISON)) if numbers.random() < poison else numbers.randint(0, most_objects)
        events.append((image_id, count))
        if count in POISON:
            expected[image_id] = ("failed", frozenset())
        else:
            ids = (object_id(image_id, "live", index) for index in range(count))
            expected[image_id] = ("complete", frozenset(ids))
        if numbers.random() < duplicates:
            events.insert(numbers.randint(0, len(events)), (image_id, count))
    return Plan(events, expected, Counter(status for status, _ in expected.values()))


@dataclass
class Landed:
    """The faults that hit while work was going on: proof that they were there."""

    at: list[tuple[float, str, str]] = field(default_factory=list)

    def note(self, kind: str, target: str) -> None:
        self.at.append((round(time.monotonic(), 1), kind, target))

    def count(self, kind: str | None = None) -> int:
        return sum(kind in (None, one) for _, one, _ in self.at)


Fault = Callable[["Service"], Awaitable[None]]


@dataclass
class Service:
    """What faults can reach."""

    broker: LocalKafka
    supervisor: Supervisor
    numbers: random.Random
    landed: Landed

    def victim(self) -> Worker | None:
        """A worker that lives."""
        alive = [worker for worker in self.supervisor.workers if worker.pid is not None]
        return self.numbers.choice(alive) if alive else None

    def send(self, worker: Worker, number: signal.Signals) -> bool:
        """Whether the signal reached the worker."""
        try:
            os.kill(worker.pid or 0, number) if worker.pid else None
        except ProcessLookupError:
            return False
        return worker.pid is not None


async def kill_worker(service: Service) -> None:
    """SIGKILL: no word to anybody, a transaction perhaps half done."""
    worker = service.victim()
    if worker is not None and service.send(worker, signal.SIGKILL):
        service.landed.note("kill", worker.name)


async def kill_model(service: Service) -> None:
    """SIGKILL of a model's or decoder's process under its worker."""
    worker = service.victim()
    if worker is None or worker.pid is None:
        return
    try:
        children = psutil.Process(worker.pid).children()
        if children:
            service.numbers.choice(children).kill()
            service.landed.note("kill model", worker.name)
    except psutil.NoSuchProcess:
        return


async def zombie(service: Service) -> None:
    """SIGSTOP until the group has given the worker up, then SIGCONT: it must find out, and break nothing."""
    worker = service.victim()
    if worker is None or not service.send(worker, signal.SIGSTOP):
        return
    pid = worker.pid
    service.landed.note("zombie", worker.name)
    await asyncio.sleep(SESSION_MS / 1000 + 3)
    if worker.pid == pid:
        service.send(worker, signal.SIGCONT)


async def restart_broker(service: Service) -> None:
    """SIGKILL of the broker; it comes back with its data."""
    service.landed.note("broker", "kill")
    service.broker.kill()
    await service.broker.start()


@dataclass(frozen=True)
class Outcome:
    """What a run showed."""

    seed: int
    events: list[CompletedImageEvent]
    fresh: list[CompletedImageEvent]
    audit: Report
    landed: Landed
    seconds: float


def settings_for(broker: LocalKafka, folder: Path, base: str) -> Settings:
    return Settings(
        kafka=Kafka(
            bootstrap_servers=broker.bootstrap_servers,
            partitions=6,
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=15_000,
            request_timeout_ms=10_000,
            transaction_timeout_ms=15_000,
        ),
        local=Local(data_dir=folder),
        images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
        detector=Detector(model="tests.stubs:Faulty", threads=1, task_timeout_s=5),
        reconstructor=Reconstructor(model="tests.stubs:Dots", threads=1, task_timeout_s=5),
        # A fault of ours must not use up a record's attempts: killed models are drawn at random here.
        stage=Stage(drain_s=3, retry_delay_s=0.1, retries=3),
        up=Up(detectors=2, reconstructors=3, aggregators=2),
        log=Log(format="json"),
    )


async def run(
    seed: int, images: int, folder: Path, faults: list[Fault], every_s: tuple[float, float], within_s: float
) -> tuple[Plan, Outcome]:
    """Publish, inject a fault every so often while there is work, and read until everything has its outcome."""
    planned = plan(seed, images)
    numbers = random.Random(seed + 1)
    landed = Landed()
    started = time.monotonic()

    def made_up(path: str) -> Answer:
        _, number, objects = path.split("/")
        return 200, "image/png", photo(int(number), int(objects))

    with serving(made_up) as base:
        async with LocalKafka(folder / "broker", config={"group.min.session.timeout.ms": "1000"}) as broker:
            settings = settings_for(broker, folder, base)
            async with running(settings, on_progress=print, log_dir=folder / "logs") as up, Reader(settings) as live:
                service = Service(broker, up.supervisor, numbers, landed)

                async def publish() -> None:
                    async with Publisher(settings) as publisher:
                        for image_id, count in planned.events:
                            number = image_id.removeprefix("image-")
                            await publisher.publish(f"{base}/{number}/{count}", image_id=image_id)

                async def inject() -> None:
                    while len(live.events) < len(planned.expected):
                        await asyncio.sleep(numbers.uniform(*every_s))
                        await numbers.choice(faults)(service)

                publishing, injecting = asyncio.create_task(publish()), asyncio.create_task(inject())
                try:
                    await live.until(len(planned.expected), within_s)
                    await publishing
                finally:
                    for task in (publishing, injecting):
                        task.cancel()
                    await asyncio.wait({publishing, injecting})
                    for worker in up.supervisor.workers:  # none may stay stopped
                        service.send(worker, signal.SIGCONT)
                await live.settled(5)
                async with Reader(settings) as fresh:
                    await fresh.until(len(planned.expected), 60)
                    await fresh.settled(1)
                report = await audit(settings, drained=True)
    return planned, Outcome(seed, live.events, fresh.events, report, landed, time.monotonic() - started)


def require(planned: Plan, done: Outcome) -> None:
    """Exactly the expected outcomes, once each, to the reader that was there and to one that came after.

    And the audit, which recomputes from all topics and the store, agrees.
    """
    for who, events in (("live", done.events), ("fresh", done.fresh)):
        counts = Counter((event.image_id, event.run, event.revision) for event in events)
        wanted = Counter((image_id, "live", 1) for image_id in planned.expected)
        assert counts == wanted, f"seed {done.seed}, {who}: {counts - wanted} too many, {wanted - counts} missing"
        differing = {
            event.image_id: (outcome(event), event.reason)
            for event in events
            if outcome(event) != planned.expected[event.image_id]
        }
        assert not differing, f"seed {done.seed}, {who}: {differing}"
    assert done.audit.holds, f"seed {done.seed}, audit: {done.audit.plain()}"
