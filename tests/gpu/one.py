"""One model in one process: loads it, reconstructs made-up objects, and prints what each took as a line of JSON.

python -m tests.gpu.one --voxels 20000 --objects 5 --options '{"compile": false}'
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stream_worker.models.sam3d.adapter import Sam3d
from tests.gpu import upstream

WIDTH, HEIGHT = 1024, 768


def loaded(folder: Path, voxels: int, options: dict[str, Any]) -> tuple[Sam3d, dict[str, Any]]:
    """The adapter, warmed up, with what it says of itself and the seconds that loading and warming up took."""
    asked = upstream.prepared(folder / "hf", **options)
    model = Sam3d()
    began = time.perf_counter()
    info = model.load(asked)
    upstream.force_voxels(model._pipeline, voxels)
    ready = time.perf_counter()
    model.warm_up()
    return model, info | {"load_s": ready - began, "warm_up_s": time.perf_counter() - ready}


def task(folder: Path) -> tuple[dict[str, Any], bytes]:
    """A noisy photo of 1024 x 768 with an ellipse in it."""
    path = folder / "pixels"
    path.write_bytes(np.random.default_rng(1).integers(0, 255, WIDTH * HEIGHT * 3, np.uint8).tobytes())
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    mask = ((x - 500) / 220) ** 2 + ((y - 400) / 180) ** 2 < 1
    return {"pixels": str(path), "width": WIDTH, "height": HEIGHT}, np.packbits(mask).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voxels", type=int, nargs="+", default=[20_000])
    parser.add_argument("--objects", type=int, default=5)
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--upstream-ply", action="store_true", help="time upstream's own writer too")
    parser.add_argument("--start-at", type=Path, help="say `ready` into this folder and wait there for `go`")
    parser.add_argument("--seconds", type=float, help="with --start-at: go on for so long instead of --objects")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, info = loaded(folder, args.voxels[0], args.options)
        print(json.dumps({"info": info}), flush=True)
        asked = task(folder)
        model.infer(*asked)
        if args.start_at:
            wait(args.start_at, folder.name)
        for voxels in args.voxels:
            upstream.force_voxels(model._pipeline, voxels)
            print(json.dumps(measured(model, asked, voxels, args)), flush=True)


def wait(place: Path, name: str) -> None:
    (place / f"ready-{name}").touch()
    while not (place / "go").exists():
        time.sleep(0.01)


def measured(model: Sam3d, asked: Any, voxels: int, args: argparse.Namespace) -> dict[str, Any]:
    model.infer(*asked)
    rows, whole, peak = [], [], 0
    began = time.perf_counter()
    while len(rows) < args.objects if not args.seconds else time.perf_counter() - began < args.seconds:
        start = time.perf_counter()
        header, _ = model.infer(*asked)
        whole.append(time.perf_counter() - start)
        rows.append(header["times"])
        peak = max(peak, header["peak_gpu_bytes"])
    seconds = time.perf_counter() - began
    result = {
        "voxels": header["voxels"],
        "asked_voxels": voxels,
        "objects": len(rows),
        "seconds": seconds,
        "object_s": statistics.median(whole),
        "fastest_s": min(whole),
        "slowest_s": max(whole),
        "peak_gb": peak / 1e9,
        **{phase: statistics.median(row.get(phase, 0.0) for row in rows) for phase in rows[0]},
    }
    if args.upstream_ply:
        result["upstream_ply_s"] = statistics.median(upstream_ply(model, asked) for _ in range(3))
    return result


def upstream_ply(model: Sam3d, asked: Any) -> float:
    """Seconds of upstream's `save_ply`."""
    found = []
    take = model._table
    model._table = lambda gaussian: (found.append(gaussian), take(gaussian))[1]  # type: ignore[method-assign]
    model.infer(*asked)
    del model._table
    with tempfile.NamedTemporaryFile(suffix=".ply") as file:
        start = time.perf_counter()
        found[0].save_ply(file.name)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
