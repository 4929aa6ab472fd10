"""Messages a second of the detector's and the aggregator's paths, no model behind them, beside what could be done.

`python -m tests.benchmarks.paths`: for each of them one process after the other works off the same backlog, run by
run, on topics of its own with as many partitions, on one private Kafka:

- service: our runner (`stage.py`) with the group's own transform. Of the detector it is all but fetch, decode, store
  and model (`path_workers.Modelless`); the aggregator is the real one, `stream-worker aggregate`;
- same: a bare aiokafka consume-transform-produce loop with transactions around the same transform;
- bare: that loop around a transform that only parses JSON and writes as many records of the same size, unchecked;
- quix: the join written with Quix Streams, exactly once, as one would write it first (`quix_join.py`), in an
  environment of its own under runs/, made where it is missing.

Judged from outside by the groups' committed offsets, from the tenth part of the backlog on. Exit code 1 where the
service does less than 0.8 of the `same` loop, or its join less than twice Quix Streams'.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from stream_worker import topics
from stream_worker.lifeline import tied
from stream_worker.local_kafka import LocalKafka
from stream_worker.settings import Detector, Kafka, Local, Log, Settings, environment
from tests.benchmarks import messages, states
from tests.benchmarks.figures import Spread, rate
from tests.benchmarks.messages import Record
from tests.benchmarks.states import tell

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).with_name("quix.lock")
DETECTOR, AGGREGATOR = "detector", "aggregator"
HOWS = {DETECTOR: ("service", "same", "bare"), AGGREGATOR: ("service", "same", "bare", "quix")}
INPUTS = {DETECTOR: (topics.IMAGES,), AGGREGATOR: (topics.DETECTIONS, topics.RECONSTRUCTIONS)}
LIMITS = {"same": 0.8, "quix": 2.0}
"""Least that the service is to be of these; the latter of the aggregator alone."""
WITHIN_S = 300.0
LEAVE_S = 10.0
CHECKPOINTS = 10
"""Quix Streams commits after each tenth of the backlog: six times what the service has in a transaction at most."""
PARTITIONS = 4
"""Of every topic here: a few full lanes, not many empty ones."""


def backlog(what: str, images: int, objects: int) -> list[tuple[str, Record]]:
    """What the group has before it, topic by topic and in the order in which it is written."""
    if what == DETECTOR:
        return [(topics.IMAGES, messages.image(number)) for number in range(images)]
    return [
        one
        for number in range(images)
        for one in (
            (topics.DETECTIONS, messages.manifest(number, objects)),
            *((topics.RECONSTRUCTIONS, messages.result(number, index)) for index in range(objects)),
        )
    ]


def quix_python(folder: Path) -> Path:
    """The interpreter of the environment with Quix Streams, which is made where it is missing or of another lock."""
    python, kept = folder / "bin" / "python", folder / LOCK.name
    if kept.exists() and kept.read_bytes() == LOCK.read_bytes():
        return python
    tell(f"making {folder} with Quix Streams")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    subprocess.run([str(uv), "pip", "sync", "-q", "--python", str(python), "--require-hashes", str(LOCK)], check=True)
    shutil.copyfile(LOCK, kept)
    return python


def command(
    how: str, what: str, settings: Settings, folder: Path, quix: Path | None, total: int, profiles: Path | None
) -> list[str]:
    """How the process is started. `total`: records of the backlog."""
    kafka = settings.kafka
    if how == "quix":
        script, servers = str(Path(__file__).with_name("quix_join.py")), str(kafka.bootstrap_servers)
        checkpoint = str(max(1, total // CHECKPOINTS))
        return [str(quix), script, servers, kafka.prefix, kafka.prefix + what, str(folder), checkpoint]
    if how == "service" and what == AGGREGATOR and profiles is None:
        return [sys.executable, "-m", "stream_worker", "aggregate", "--name", "aggregator-0"]
    profile = [] if profiles is None else [str(profiles / f"{what}-{how}.prof")]
    return [sys.executable, "-m", "tests.benchmarks.path_workers", how, what, *profile]


@asynccontextmanager
async def running(told: Sequence[str], settings: Settings, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker, for as long as the context lasts."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *tied(list(told)),
            cwd=ROOT,
            env={**os.environ, **environment(settings)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), LEAVE_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def one_span(
    told: argparse.Namespace,
    how: str,
    what: str,
    records: Sequence[tuple[str, Record]],
    servers: str,
    folder: Path,
    number: int,
    quix: Path | None,
) -> float:
    """Records a second of one process at this backlog."""
    settings = Settings(
        kafka=Kafka(bootstrap_servers=servers, prefix=f"{what}-{how}-{number}-", partitions=told.partitions),
        local=Local(data_dir=folder / f"data-{what}-{how}-{number}"),
        detector=Detector(model="tests.benchmarks.timed:TimedDetector", batch=told.batch),
        log=Log(format="json", level="warning"),
    )
    await topics.create(settings.kafka)
    await messages.write(settings.kafka, records)
    log = folder / f"{what}-{how}.log"
    try:
        line = command(how, what, settings, folder / f"quix-{number}", quix, len(records), told.profiles)
        async with running(line, settings, log) as process:
            watching = asyncio.create_task(
                messages.watched(
                    settings.kafka, settings.kafka.prefix + what, INPUTS[what], len(records), within_s=WITHIN_S
                )
            )
            ending = asyncio.create_task(process.wait())
            await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
            ending.cancel()
            if not watching.done():
                watching.cancel()
                sys.exit(f"{what}, {how}: it ended\n{log.read_text(errors='replace')[-2000:]}")
            return rate(watching.result(), len(records))
    finally:
        await messages.forget(settings.kafka)


async def runs(told: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Records a second, by what and how, run by run."""
    quix = quix_python(told.quix.absolute()) if "quix" in told.hows and AGGREGATOR in told.what else None
    found: dict[str, dict[str, list[float]]] = {
        what: {how: [] for how in HOWS[what] if how in told.hows} for what in told.what
    }
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-paths-")))
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        records = {what: backlog(what, told.images, told.objects) for what in found}
        for run in range(told.runs):
            for what, hows in found.items():
                # In turn forwards and backwards: none is always the first.
                for how in list(hows)[:: 1 if run % 2 == 0 else -1]:
                    done = await one_span(told, how, what, records[what], broker.bootstrap_servers, folder, run, quix)
                    hows[how].append(done)
                    tell(f"run {run + 1} of {told.runs}, {what}, {how}: {done:,.0f} records/s")
    return found


def ratios(hows: dict[str, list[float]], other: str) -> list[float]:
    """The service by another, run by run."""
    return [ours / theirs for ours, theirs in zip(hows["service"], hows[other], strict=True)]


def measure(told: argparse.Namespace) -> int:
    """Measure, keep and judge."""
    states.quiet()
    if told.profiles is not None:
        told.profiles = told.profiles.absolute()
        told.profiles.mkdir(parents=True, exist_ok=True)
    found = asyncio.run(runs(told))
    if told.profiles is not None:
        tell(f"profiles are in {told.profiles}; the figures are of no use, for a profiler takes its time")
        return 0
    names = ("images", "objects", "partitions", "batch")
    figures: dict[str, Any] = {name: getattr(told, name) for name in names}
    states.save(told.states, "paths", figures | {"limits": LIMITS, "rates": found})
    good = True
    for what, hows in found.items():
        for how in (how for how in hows if how != "service" and "service" in hows):
            ratio = Spread.of(ratios(hows, how))
            wanted = LIMITS.get(how)
            good &= wanted is None or ratio.median >= wanted
            tell(f"{what}: {ratio.shown()} of {how}" + (f", at least {wanted} wanted" if wanted else ""))
    return 0 if good else 1


def main() -> int:
    """Measure, keep, and say by the exit code whether it is enough."""
    parser = states.parser(__doc__)
    parser.add_argument("--what", nargs="+", choices=list(HOWS), default=list(HOWS))
    parser.add_argument("--hows", nargs="+", choices=HOWS[AGGREGATOR], default=list(HOWS[AGGREGATOR]))
    parser.add_argument("--images", type=int, default=4000, help="of a backlog")
    parser.add_argument("--objects", type=int, default=2, help="of an image, for the aggregator")
    parser.add_argument("--partitions", type=int, default=PARTITIONS)
    parser.add_argument("--batch", type=int, default=16, help="detector.batch: how many photos it has at once")
    parser.add_argument("--profiles", type=Path, help="folder of profiles of each process, for `python -m pstats`")
    parser.add_argument("--quix", type=Path, default=Path("runs/quix"), help="the environment with Quix Streams")
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
