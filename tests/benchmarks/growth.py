"""What more of everything costs the aggregator: images in flight, and topics that are long.

`python -m tests.benchmarks.growth`: the real aggregator on a private Kafka, twelve partitions.

- In flight: manifests of 1,000, 10,000 and 100,000 images with three objects each, and one result of each, are given
  to it, and it is looked how much memory it has (RSS, over what it had with five hundred others); then it is started
  anew, several times, and restores them: from the first lane that begins to the last that is done, by its own log.
- Long topics: its records a second at a backlog, and at one ten times as long, on topics of their own, in turn.

Exit code 1 where an image takes more than 4 KB, or 100,000 are not there again within ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from stream_worker import topics
from stream_worker.local_kafka import LocalKafka
from stream_worker.settings import Aggregator, Kafka, Local, Log, Settings, Up
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.benchmarks import messages, states
from tests.benchmarks.figures import Seen, Spread, rate
from tests.benchmarks.messages import Record
from tests.benchmarks.paths import AGGREGATOR, INPUTS, backlog
from tests.benchmarks.states import tell

LIMITS = {"kb": 4.0, "restore_s": 10.0}
"""Most of an image, and most for the largest number of them."""
OBJECTS = 3
TIMES = 10
"""How much longer the long topic is."""
TENTHS = 10
WARM = 500
"""Images before the ones that count: what every process takes for its first records is not theirs."""
READY_S = 120.0
WITHIN_S = 900.0
MEMORY_MB = 8192
"""Room for all of them: what is measured is what they take, not when the aggregator says stop."""


def restored_s(lines: Iterable[str], lanes: int) -> float | None:
    """From the first lane that was begun to the last that was restored, in a start's log; None: not all are yet."""
    began: list[datetime] = []
    done: dict[int, datetime] = {}
    for line in lines:
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("event") == "restoring":
            began.append(datetime.fromisoformat(said["timestamp"]))
        elif said.get("event") == "restored":
            done[said["lane"]] = datetime.fromisoformat(said["timestamp"])
    return (max(done.values()) - min(began)).total_seconds() if len(done) == lanes else None


def settings_of(servers: str, prefix: str, folder: Path) -> Settings:
    return Settings(
        kafka=Kafka(bootstrap_servers=servers, prefix=prefix),
        local=Local(data_dir=folder / f"{prefix}data"),
        aggregator=Aggregator(memory_mb=MEMORY_MB),
        up=Up(detectors=0, reconstructors=0, aggregators=1),
        log=Log(format="json"),
    )


class Worker:
    """One life of the aggregator, until the context ends."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        self._settings = settings
        self._log = logs / "aggregator-0.log"
        self._supervisor = Supervisor(settings, plan(settings, []), logs)

    async def __aenter__(self) -> Worker:
        await self._supervisor.__aenter__()
        await self._supervisor.ready(READY_S)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._supervisor.__aexit__(*error)

    async def restored(self) -> float:
        """Wait until all lanes are; the seconds that it took."""
        async with asyncio.timeout(WITHIN_S):
            while (took := restored_s(self._lines(), self._settings.kafka.partitions)) is None:  # noqa: ASYNC110  # logs
                await asyncio.sleep(0.2)
        return took

    def rss_mb(self) -> float:
        """What it holds now."""
        found: float = psutil.Process(self._supervisor.workers[0].pid).memory_info().rss / 2**20
        return found

    def _lines(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines()


def in_flight(images: range, results: int) -> Iterable[tuple[str, Record]]:
    """All manifests, and then so many results of each."""
    yield from ((topics.DETECTIONS, messages.manifest(number, OBJECTS)) for number in images)
    for index in range(results):
        yield from ((topics.RECONSTRUCTIONS, messages.result(number, index)) for number in images)


async def held(told: argparse.Namespace, servers: str, folder: Path, images: int) -> dict[str, Any]:
    """So many images in flight: memory, and restoring them again and again."""
    settings = settings_of(servers, f"flight-{images}-", folder)
    group = settings.kafka.prefix + AGGREGATOR
    await topics.create(settings.kafka)
    async with Worker(settings, folder / f"{images}-filling") as worker:
        await worker.restored()
        total, rss = 0, []
        for some in (range(WARM), range(WARM, WARM + images)):
            await messages.write(settings.kafka, in_flight(some, told.results))
            total += len(some) * (1 + told.results)
            await messages.watched(settings.kafka, group, INPUTS[AGGREGATOR], total, within_s=WITHIN_S)
            rss.append(worker.rss_mb())
        empty, full = rss
    tell(f"{images:,} images: {full - empty:.0f} MiB, {1024 * (full - empty) / images:.2f} KB each")
    seconds, again = [], []
    for run in range(told.runs):
        async with Worker(settings, folder / f"{images}-again-{run}") as worker:
            seconds.append(await worker.restored())
            again.append(worker.rss_mb())
        tell(f"{images:,} images, start {run + 1} of {told.runs}: restored in {seconds[-1]:.2f} s, {again[-1]:.0f} MiB")
    await messages.forget(settings.kafka)
    return {"images": images, "empty_mb": empty, "full_mb": full, "restored_s": seconds, "restored_mb": again}


def tenth(seen: Sequence[Seen], total: int, number: int) -> float | None:
    """Records a second in this tenth of a backlog; None where it went by too fast to see."""
    try:
        return rate(seen, total, number / TENTHS, (number + 1) / TENTHS)
    except ValueError:
        return None


async def pace(servers: str, folder: Path, images: int, run: int) -> dict[str, Any]:
    """Records a second at a backlog of so many images, all in all and by tenths of it."""
    settings = settings_of(servers, f"long-{images}-{run}-", folder)
    records = backlog(AGGREGATOR, images, OBJECTS)
    await topics.create(settings.kafka)
    await messages.write(settings.kafka, records)
    async with Worker(settings, folder / f"long-{images}-{run}"):
        seen = await messages.watched(
            settings.kafka,
            settings.kafka.prefix + AGGREGATOR,
            INPUTS[AGGREGATOR],
            len(records),
            within_s=WITHIN_S,
        )
    await messages.forget(settings.kafka)
    return {
        "rate": rate(seen, len(records)),
        "tenths": [tenth(seen, len(records), number) for number in range(1, TENTHS)],
    }


async def runs(told: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for."""
    figures: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-growth-")))
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        servers = broker.bootstrap_servers
        if "flight" in told.what:
            figures["flight"] = [await held(told, servers, folder, images) for images in told.images]
        if "length" in told.what:
            long: list[dict[str, Any]] = []
            short: list[dict[str, Any]] = []
            for run in range(told.runs):
                short.append(await pace(servers, folder, told.short, run))
                long.append(await pace(servers, folder, TIMES * told.short, run))
                tell(
                    f"run {run + 1} of {told.runs}: {short[-1]['rate']:,.0f} records/s at {told.short} images, "
                    f"{long[-1]['rate']:,.0f} at {TIMES * told.short}"
                )
            figures["length"] = {"images": told.short, "times": TIMES, "short": short, "long": long}
    return figures


def measure(told: argparse.Namespace) -> int:
    """Measure, keep and judge."""
    states.quiet()
    found = asyncio.run(runs(told))
    last = states.load(told.states).get("growth", {"figures": {}})["figures"]
    kept = {name: last[name] for name in ("flight", "length") if name in last}
    states.save(told.states, "growth", kept | found | {"objects": OBJECTS, "results": told.results, "limits": LIMITS})
    good = True
    for one in found.get("flight", []):
        if one["images"] == max(told.images):
            good &= 1024 * (one["full_mb"] - one["empty_mb"]) / one["images"] <= LIMITS["kb"]
            good &= Spread.of(one["restored_s"]).median <= LIMITS["restore_s"]
    return 0 if good else 1


def main() -> int:
    """Measure, keep, and say by the exit code whether it is enough."""
    parser = states.parser(__doc__)
    parser.add_argument("--what", nargs="+", choices=["flight", "length"], default=["flight", "length"])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000], help="in flight")
    parser.add_argument("--results", type=int, default=1, choices=range(OBJECTS), help="of each image in flight")
    parser.add_argument("--short", type=int, default=1500, help="images of the backlog that is not long")
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
