"""The long fault run: `make faults` (SEED=n for one seed, IMAGES=n for fewer). Writes tests/faults/RESULTS.md.

All faults of the harness together, on every seed. The run ends with exit code 1 where an outcome is lost, comes twice
or is not what it must be; the seed repeats the schedule of faults (not the timing of the machine).
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import shutil
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from stream_worker.local_kafka import KAFKA_VERSION
from tests.faults import harness

RESULTS = Path(__file__).with_name("RESULTS.md")
FAULTS: list[harness.Fault] = [
    harness.kill_worker,
    harness.kill_worker,
    harness.kill_worker,
    harness.kill_model,
    harness.zombie,
    harness.restart_broker,
]
EVERY_S = (1.0, 4.0)
KINDS = ("kill", "kill model", "zombie", "broker")


async def one(seed: int, images: int, within_s: float) -> tuple[str, bool]:
    """Run one seed; its row of the table, and whether all was as it must be."""
    folder = Path(tempfile.mkdtemp(prefix=f"stream-worker-faults-{seed}-"))
    planned, done = await harness.run(seed, images, folder, FAULTS, EVERY_S, within_s)
    try:
        harness.require(planned, done)
        verdict = "exactly the expected outcomes"
    except AssertionError as error:
        verdict = f"FAILED: {str(error)[:300]} (logs: {folder / 'logs'})".replace("|", "/").replace("\n", " ")
    landed = Counter(kind for _, kind, _ in done.landed.at)
    objects = sum(len(event.objects) for event in done.fresh)
    faults = " | ".join(str(landed[kind]) for kind in KINDS)
    row = f"| {seed} | {len(planned.events)} | {images} | {objects} | {faults} | {done.seconds:.0f} | {verdict} |"
    if not verdict.startswith("FAILED"):
        shutil.rmtree(folder, ignore_errors=True)
    return row, not verdict.startswith("FAILED")


def main() -> int:
    """Run the seeds one after the other; the table is written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--within-s", type=float, default=3600)
    arguments = parser.parse_args()
    rows, good = [], True
    for seed in arguments.seeds:
        row, fine = asyncio.run(one(seed, arguments.images, arguments.within_s))
        print(row, flush=True)
        rows.append(row)
        good &= fine
        RESULTS.write_text(_page(rows, arguments.images), encoding="utf-8")
    return 0 if good else 1


def _page(rows: list[str], images: int) -> str:
    return "\n".join(
        [
            "# Last results of the long fault run",
            "",
            f"`make faults IMAGES={images}`, {datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, "
            f"aiokafka {version('aiokafka')}, Apache Kafka {KAFKA_VERSION}, one broker, 2 detectors, 3 reconstructors, "
            f"2 aggregators with stub models (20 ms an object), {platform.machine()}.",
            "",
            "| seed | events | images | objects | workers killed | models killed | zombies | broker killed | seconds |"
            " outcome |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "1 % of the images are poison, 20 % of the image events come twice. Every image must have exactly one "
            "outcome, with exactly its objects, to a reader that was there all the time and to one that came after.",
            "",
            "Not measured yet: memory over time, time until a killed worker's partitions resume, a cluster of three "
            "brokers, faults of the network between clients and broker, faults of the object store.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
