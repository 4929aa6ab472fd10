"""The long fault run: `make faults` (SEED=n for one seed, IMAGES=n for fewer, SHORT=1 for the short profile).

Each seed leaves its figures in a state file under --work, and tests/faults/RESULTS.md is written from all of them
after each: so the seeds can be run one by one. Exit code 1 where a guarantee did not hold or a figure was missed.
The seed repeats the plan and the schedule of faults, not the timing of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import pickle
import platform
import shutil
import sys
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from stream_worker.local_kafka import KAFKA_VERSION
from tests.faults import harness, profiles
from tests.faults.profiles import Profile
from tests.faults.results import page
from tests.faults.verdict import judged

RESULTS = Path(__file__).with_name("RESULTS.md")
WORK = Path("runs/faults")


KEPT = "outcome.pickle"
"""What a run showed, until all was well with it."""


def main() -> int:
    """Run the seeds one after the other."""
    arguments = _arguments()
    profile = profiles.SHORT if arguments.short else profiles.LONG
    if arguments.images:
        share = arguments.images / profile.images
        profile = dataclasses.replace(
            profile,
            images=arguments.images,
            publish_s=share * profile.publish_s,
            least_kills=int(share * profile.least_kills),
        )
    good = True
    for seed in arguments.seeds:
        state = _one(seed, profile, arguments.work / profile.name, judge_only=arguments.judge_only)
        good &= not (state["broken"] or state["missed"])
        whole = not (arguments.short or arguments.images)
        if results := arguments.results or (RESULTS if whole else None):
            results.write_text(page(_states(arguments.work / profile.name)), encoding="utf-8")
    return 0 if good else 1


def _one(seed: int, profile: Profile, work: Path, *, judge_only: bool) -> dict[str, Any]:
    """Run one seed; what it left. The folder of a run in which all was well is removed."""
    folder = (work / f"seed-{seed}").absolute()
    if judge_only and not (folder / KEPT).exists():
        print(f"seed {seed}: nothing is kept of it, so its verdict stays", flush=True)
        judged_before: dict[str, Any] = json.loads((work / f"seed-{seed}.json").read_text(encoding="utf-8"))
        return judged_before
    state: dict[str, Any] = {
        "seed": seed,
        "images": profile.images,
        "object_ms": profile.object_ms,
        "publish_s": profile.publish_s,
        "restart_s": profile.restart_s[0],
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "versions": f"Apache Kafka {KAFKA_VERSION}, aiokafka {version('aiokafka')}, Python {platform.python_version()}",
        "machine": _machine(),
        "command": harness.command(seed, profile),
        "logs": str(folder / "logs"),
    }
    try:
        verdict = judged(_outcome(seed, profile, folder, judge_only=judge_only))
        state |= {"broken": verdict.broken, "missed": verdict.missed, "figures": verdict.figures}
    except Exception as error:  # noqa: BLE001  # the other seeds are to run all the same
        traceback.print_exc()
        state |= {"broken": [f"the run ended with {type(error).__name__}: {error}"], "missed": [], "figures": None}
    (work / f"seed-{seed}.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    for line in (*state["broken"], *state["missed"]):
        print(f"seed {seed} FAILED: {line}", flush=True)
    if state["broken"] or state["missed"]:
        print(f"seed {seed}: logs in {state['logs']}; to repeat: {state['command']}", flush=True)
        shutil.rmtree(folder / "store", ignore_errors=True)
    else:
        print(f"seed {seed}: all is as it must be", flush=True)
        shutil.rmtree(folder)
    return state


def _outcome(seed: int, profile: Profile, folder: Path, *, judge_only: bool) -> harness.Outcome:
    """What the run showed. It is kept: a fault of the judge must not cost a quarter of an hour of evidence."""
    kept = folder / KEPT
    if judge_only:
        found: harness.Outcome = pickle.loads(kept.read_bytes())
        return found
    shutil.rmtree(folder, ignore_errors=True)
    outcome = asyncio.run(harness.run(seed, profile, folder))
    kept.write_bytes(pickle.dumps(outcome))
    return outcome


def _states(work: Path) -> list[dict[str, Any]]:
    """Every seed that was run, in order."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in work.glob("seed-*.json")]
    return sorted(found, key=lambda state: int(state["seed"]))


def _machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--images", type=int, help="fewer images, and fewer kills wanted; RESULTS.md is left alone")
    parser.add_argument("--short", action="store_true", help="the short profile, on one node; likewise")
    parser.add_argument("--judge-only", action="store_true", help="judge again what failed runs have left in --work")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the states and the logs")
    parser.add_argument("--results", type=Path, help="the page to write; RESULTS.md after whole runs if none is named")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
