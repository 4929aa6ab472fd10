"""The reconstructor on this GPU as a service: how long it takes from one object of a backlog to the next, and why.

`python -m tests.gpu.service OUT.json`: a real worker process on a private Kafka and a store (a folder), upstream's
modules with random weights (`upstream.py` says what they need) in the worker's own child, a photo of 1024 x 768 for
each object. What an object takes beyond the model's own phases is what adapter and service add.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from stream_worker.settings import SAM3D, Reconstructor, Sam3d
from tests.benchmarks.gpu_idle import measure
from tests.gpu.forced import VOXELS
from tests.gpu.measure import machine

HOOKS = Path(__file__).parent / "random_weights"
ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--objects", type=int, default=40)
    args = parser.parse_args()
    path = [str(HOOKS), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "hf"
        found = asyncio.run(
            measure(
                args.objects,
                within_s=60 + 5 * args.objects,
                ready_s=300,
                env={"PYTHONPATH": os.pathsep.join(path)},
                reconstructor=Reconstructor(model=SAM3D),
                sam3d=Sam3d(checkpoint=str(checkpoint), sha256sums=str(checkpoint.with_suffix(".sha256"))),
            )
        )
    args.out.write_text(json.dumps({"machine": machine(), "service": {"voxels": VOXELS, **asdict(found)}}, indent=1))
    print(args.out.read_text())


if __name__ == "__main__":
    main()
