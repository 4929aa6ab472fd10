"""A run: the real processes on a real Kafka, publishing, faults and samplers side by side, then the verifiers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from aiokafka.errors import KafkaError

from stream_worker import supervisor
from stream_worker.audit.findings import Report
from stream_worker.audit.run import audit
from stream_worker.closing import end
from stream_worker.errors import UserError
from stream_worker.events import CompletedImageEvent
from stream_worker.publish import Publisher
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Reconstructor, Settings, Stage, Up
from stream_worker.status import measure
from stream_worker.up import running
from tests.faults.commits import Commits, committed
from tests.faults.faults import FAULTS, Hit, Service, send
from tests.faults.memory import Life, Memory
from tests.faults.offsets import Offsets, Sample, Source, visible
from tests.faults.plan import Plan, drawn, plan
from tests.faults.profiles import SESSION_S, TASK_TIMEOUT_S, TRANSACTION_S, Profile
from tests.faults.readers import Reader
from tests.faults.schedule import Step, schedule
from tests.faults.stumbles import stumbles
from tests.photo_server import Answer, serving
from tests.servers.kafka_cluster import KafkaCluster

TELL_S = 15.0
DRAIN_S = 300.0
"""How long lag may last before it is given up: far beyond what is allowed, to have a figure."""
READ_S = 180.0
AT_ONCE = 16
"""Most events that are on their way to the broker at a time."""


@dataclass(frozen=True)
class Outcome:
    """What a run showed."""

    seed: int
    profile: Profile
    planned: Plan
    live: Sequence[CompletedImageEvent]
    fresh: Sequence[CompletedImageEvent]
    audit: Report
    hits: Sequence[Hit]
    stumbles: Sequence[Hit]
    """What became of models that poison or a kill of theirs ended."""
    missed: int
    over: float
    """When the last fault had ended and all was published, in seconds of the run."""
    troubles: Sequence[str]
    """Tracks of faults that broke off: the harness's own trouble, or a cluster that did not become whole again."""
    samples: Sequence[Sample]
    commits: Commits
    visible: Mapping[Source, Sequence[int]]
    lives: Sequence[Life]
    starts: Mapping[str, int]
    seconds: float


def command(seed: int, profile: Profile) -> str:
    """What repeats the run."""
    short = " SHORT=1" if profile.name == "short" else ""
    return f"make faults SEED={seed} IMAGES={profile.images}{short}"


def settings_for(cluster: KafkaCluster, folder: Path, base: str, profile: Profile) -> Settings:
    """Two detectors, three reconstructors, two aggregators, all with stub models."""
    return Settings(
        kafka=Kafka(
            bootstrap_servers=cluster.bootstrap_servers,
            partitions=6,
            replication_factor=len(cluster.nodes),
            session_timeout_ms=round(1000 * SESSION_S),
            rebalance_timeout_ms=15_000,
            request_timeout_ms=profile.request_timeout_ms,
            transaction_timeout_ms=round(1000 * TRANSACTION_S),
        ),
        local=Local(data_dir=folder),
        images=Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
        detector=Detector(model="tests.stubs:Scripted", threads=1, task_timeout_s=TASK_TIMEOUT_S),
        reconstructor=Reconstructor(model="tests.stubs:ScriptedDots", threads=1, task_timeout_s=TASK_TIMEOUT_S),
        # A fault of ours must not use up a record's attempts: killed models are drawn at random here.
        stage=Stage(drain_s=3, retry_delay_s=0.1, retries=3, commit_interval_ms=profile.commit_interval_ms),
        up=Up(detectors=2, reconstructors=3, aggregators=2),
        log=Log(format="json"),
    )


async def run(seed: int, profile: Profile, folder: Path, tell: Callable[[str], None] = print) -> Outcome:
    """Publish, inject faults while there is work, wait until everything has its outcome, and look at all of it.

    `folder` gets the schedule, the logs of every process and the fault log; it is the caller's to remove.
    """
    planned = plan(seed, profile.images, poison=profile.poison)
    steps = schedule(seed, profile.rhythms, profile.horizon_s)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedule.json").write_text(json.dumps({k: [asdict(step) for step in v] for k, v in steps.items()}))
    tell(f"seed {seed}: {len(planned.events)} events, {planned.objects} objects, {dict(planned.statuses)}")

    def made_up(path: str) -> Answer:
        return 200, "image/png", drawn(path)

    async with AsyncExitStack() as stack:
        base = stack.enter_context(serving(made_up))
        stack.enter_context(_restarts(profile.restart_s))
        cluster = await stack.enter_async_context(KafkaCluster(folder / "kafka", profile.nodes))
        settings = settings_for(cluster, folder, base, profile)
        up = await stack.enter_async_context(running(settings, on_progress=tell, log_dir=folder / "logs"))
        started, began = time.monotonic(), time.time()
        live = await stack.enter_async_context(Reader(settings.kafka))
        offsets = await stack.enter_async_context(Offsets(settings.kafka, started))
        memory = await stack.enter_async_context(Memory(up.supervisor.workers, started))
        service = Service(
            supervisor=up.supervisor,
            cluster=cluster,
            spared=profile.spared,
            waiting=lambda: len(planned.expected) - len(live.images),
            started=started,
        )
        async with _publishing(settings, planned, base, profile, service) as publishing:
            enough = round(profile.inject_until * len(planned.expected))
            async with _progress(service, live, tell):
                async with _injecting(service, steps, folder):
                    await live.until(enough, profile.within_s)
                tell(f"{len(service.hits)} faults landed, over after {service.now():.0f} s")
                published = await asyncio.wait_for(publishing, profile.publish_s + READ_S)
                if not await live.until(len(planned.expected), DRAIN_S):
                    tell(f"{service.waiting()} images without an outcome")
        await _drained(settings, tell)
        seconds = service.now()
        await asyncio.sleep(3.0)  # whatever comes now is one too many, and the live reader sees it
        await live.to_the_end(READ_S)
        async with Reader(settings.kafka) as fresh:
            await fresh.to_the_end(READ_S)
        report = await audit(settings, drained=True)
        seen = await visible(settings.kafka, READ_S)
        commits = await committed(settings.kafka, began, READ_S)
        (folder / "memory.json").write_text(json.dumps([asdict(life) for life in memory.lives]))
        return Outcome(
            seed=seed,
            profile=profile,
            planned=planned,
            live=live.events,
            fresh=fresh.events,
            audit=report,
            hits=service.hits,
            stumbles=stumbles(folder / "logs", began),
            missed=service.missed,
            over=max([published, *(hit.until for hit in service.hits)]),
            troubles=service.troubles,
            samples=offsets.samples,
            commits=commits,
            visible=seen,
            lives=memory.lives,
            starts={worker.name: worker.starts for worker in up.supervisor.workers},
            seconds=seconds,
        )


@contextmanager
def _restarts(restart_s: tuple[float, float]) -> Iterator[None]:
    before = supervisor.BACKOFF_S
    supervisor.BACKOFF_S = restart_s
    try:
        yield
    finally:
        supervisor.BACKOFF_S = before


@asynccontextmanager
async def _publishing(
    settings: Settings, planned: Plan, base: str, profile: Profile, service: Service
) -> AsyncIterator[asyncio.Task[float]]:
    """Publish at an even pace, through all faults, in a task that gives the moment of its end."""
    pace_s = profile.publish_s / len(planned.events)

    async def publish() -> float:
        started = service.now()
        left = deque(enumerate(planned.events))
        while left:
            # Events that may or may not have been taken are published again: some duplicates more, and no harm.
            with contextlib.suppress(UserError, KafkaError, OSError, TimeoutError):
                async with Publisher(settings) as publisher:
                    while left:
                        await asyncio.sleep(max(0.0, started + left[0][0] * pace_s - service.now()))
                        passed = service.now() - started
                        due = [image for number, image in islice(left, AT_ONCE) if number * pace_s <= passed]
                        await asyncio.gather(
                            *(
                                publisher.publish(base + image.path(profile.object_ms), image_id=image.image_id)
                                for image in due
                            )
                        )
                        for _ in due:
                            left.popleft()
            if left:
                await asyncio.sleep(1.0)
        return service.now()

    task = asyncio.create_task(publish(), name="publish")
    try:
        yield task
    finally:
        await end(task)


@asynccontextmanager
async def _injecting(service: Service, steps: Mapping[str, Sequence[Step]], folder: Path) -> AsyncIterator[None]:
    """Faults of all tracks, side by side, until the context is left; one that is under way then comes to its end."""
    enough = asyncio.Event()

    async def go_on(track: Sequence[Step]) -> None:
        for step in track:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), step.pause_s)
            if enough.is_set():
                return
            try:
                await FAULTS[step.kind](service, step)
            except (UserError, TimeoutError) as error:
                # The other tracks go on; the run says what became of this one.
                service.troubles.append(f"{step.kind} at {service.now():.0f} s: {type(error).__name__}: {error}")
                return

    tracks = [asyncio.create_task(go_on(track), name=f"faults: {name}") for name, track in steps.items()]
    try:
        yield
        enough.set()
        await asyncio.gather(*tracks)
    finally:
        for task in tracks:
            await end(task)
        for worker in service.supervisor.workers:  # none may stay stopped
            send(worker, signal.SIGCONT)
        (folder / "faults.json").write_text(json.dumps([asdict(hit) for hit in service.hits]))


@asynccontextmanager
async def _progress(service: Service, live: Reader, tell: Callable[[str], None]) -> AsyncIterator[None]:
    async def report() -> None:
        while True:
            await asyncio.sleep(TELL_S)
            tell(f"{service.now():.0f} s: {len(live.images)} outcomes, {len(service.hits)} faults landed")

    task = asyncio.create_task(report(), name="progress")
    try:
        yield
    finally:
        await end(task)


async def _drained(settings: Settings, tell: Callable[[str], None]) -> None:
    """Wait until no group is behind, as `stream-worker status` sees it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            while True:
                with contextlib.suppress(UserError, KafkaError, OSError):
                    behind = {f"{one.group} of {one.topic}": one.lag for one in await measure(settings, 1.0) if one.lag}
                    if not behind:
                        return
                    tell(f"behind: {behind}")
                await asyncio.sleep(1.0)
