"""One model in the service's own host: made-up objects, as a backlog of them; what each took, as a line of JSON.

python -m tests.gpu.one --voxels 20000 --objects 5 --options '{"compile": false}'
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stream_worker.errors import TransientFault
from stream_worker.models.environment import compute_limits
from stream_worker.models.host import ModelHost, ModelResult
from tests.gpu import upstream

WIDTH, HEIGHT = 1024, 768
PHASES = ("pointmap", "preprocess", "condition", "stage1", "stage2", "decode")
"""The model's own."""
WINDOW = 3
"""As a reconstructor's: one in the model, the next one behind it, the last one on its way out."""


def host_of(folder: Path, voxels: int, options: dict[str, Any]) -> ModelHost:
    """Not started yet."""
    named = {name: os.environ[name] for name in (upstream.UPSTREAM, upstream.CONFIGS)}
    return ModelHost(
        name="sam3d",
        model="tests.gpu.forced:Forced",
        options=options | {"checkpoint": str(folder / "hf"), "forced_voxels": voxels},
        env={"PYTHONPATH": os.getcwd(), **named, **compute_limits(threads=4, device="auto")},
        load_timeout_s=600,
        task_timeout_s=120,
    )


def task(folder: Path, voxels: int) -> tuple[dict[str, Any], bytes]:
    """A noisy photo of 1024 x 768 with an ellipse in it."""
    path = folder / "pixels"
    path.write_bytes(np.random.default_rng(1).integers(0, 255, WIDTH * HEIGHT * 3, np.uint8).tobytes())
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((x - 500) / 220) ** 2 + ((y - 400) / 180) ** 2 < 1
    asked = {"pixels": str(path), "width": WIDTH, "height": HEIGHT, "voxels": voxels}
    return asked, np.packbits(mask).tobytes()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, nargs="+", default=[20_000])
    parser.add_argument("--objects", type=int, default=5)
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--upstream-ply", action="store_true", help="time upstream's own writer too")
    parser.add_argument("--start-at", type=Path, help="say `ready` into this folder and wait there for `go`")
    parser.add_argument("--seconds", type=float, help="with --start-at: go on for so long instead of --objects")
    parser.add_argument("--kill", action="store_true", help="at the end, kill the child in stage 2")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with host_of(folder, args.voxels[0], args.options) as host:
            print(json.dumps({"info": host.info | host.load_times}), flush=True)
            await host.infer(*task(folder, args.voxels[0]))
            if args.start_at:
                await wait(args.start_at, folder.name)
            for voxels in args.voxels:
                print(json.dumps(await measured(host, folder, voxels, args)), flush=True)
            if args.kill:
                print(json.dumps({"killed": await killed(host, folder, args.voxels[0])}), flush=True)


async def wait(place: Path, name: str) -> None:
    (place / f"ready-{name}").touch()
    while not (place / "go").exists():  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0.01)


async def measured(host: ModelHost, folder: Path, voxels: int, args: argparse.Namespace) -> dict[str, Any]:
    asked = task(folder, voxels)
    await host.infer(*asked)
    began = time.perf_counter()
    found: list[ModelResult] = []
    numbers = itertools.count()

    async def work() -> None:
        while next(numbers) < args.objects + 1 if not args.seconds else time.perf_counter() - began < args.seconds:
            found.append(await host.infer(*asked))

    await asyncio.gather(*(work() for _ in range(WINDOW)))
    seconds = time.perf_counter() - began
    found.sort(key=lambda one: one.started_at)
    periods = [after.started_at - before.started_at for before, after in itertools.pairwise(found)]
    times = [one.header["times"] for one in found]
    beyond = [period / sum(row.values()) - 1 for period, row in zip(periods, map(own, times), strict=False)]
    spans = [one.header["span"] for one in found]
    result = {
        "voxels": found[0].header["voxels"],
        "asked_voxels": voxels,
        "objects": len(found),
        "seconds": seconds,
        "period_s": statistics.median(periods),
        "shortest_s": min(periods),
        "longest_s": max(periods),
        "beyond_share": statistics.median(beyond),
        "busy_s": statistics.median(one.busy_s for one in found),
        "write_s": statistics.median(one.body_s for one in found),
        "span_s": statistics.median(ended - began for began, ended in spans),
        "to_next_task_s": statistics.median(
            after.started_at - before.header["span"][1] for before, after in itertools.pairwise(found)
        ),
        "to_work_s": statistics.median(one.header["span"][0] - one.started_at for one in found),
        "peak_gb": max(one.header["peak_gpu_bytes"] for one in found) / 1e9,
        **{phase: statistics.median(row.get(phase, 0.0) for row in times) for phase in times[0]},
    }
    if args.upstream_ply:
        result["upstream_ply_s"] = statistics.median(await upstream_ply(host, asked))
    return result


def own(times: dict[str, float]) -> dict[str, float]:
    """The model's own phases, of an object's `times`."""
    return {phase: times.get(f"{phase}_s", 0.0) for phase in PHASES}


async def upstream_ply(host: ModelHost, asked: tuple[dict[str, Any], bytes]) -> Sequence[float]:
    """Seconds of upstream's `save_ply`."""
    return [(await host.infer({**asked[0], "upstream_ply": True}, asked[1])).header["upstream_ply_s"] for _ in range(3)]


async def killed(host: ModelHost, folder: Path, voxels: int) -> dict[str, Any]:
    """What becomes of a child that is killed in stage 2, and of the object after it."""
    begins = folder / "stage2"
    asked, payload = task(folder, voxels)
    doomed = asyncio.create_task(host.infer({**asked, "stage2_begins": str(begins)}, payload))
    while not begins.exists():  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0.005)
    pid = host.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    at = time.perf_counter()
    said = "no fault"
    try:
        await doomed
    except TransientFault as fault:
        said = f"{fault.reason.value}: {fault}"
    after = await host.infer(asked, payload)
    return {
        "said": said,
        "next_object_after_s": time.perf_counter() - at - after.busy_s - after.body_s,
        "loaded_in_s": sum(host.load_times.values()),
        "generation": after.generation,
    }


if __name__ == "__main__":
    asyncio.run(main())
