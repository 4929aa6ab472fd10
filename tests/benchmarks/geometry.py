"""What the service does with an object's Gaussians on one core: `python -m tests.benchmarks.geometry [COUNT]`.

A noisy shell of an ellipsoid, 300,000 Gaussians unless told otherwise. Prints medians and extremes in milliseconds.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from stream_worker.geometry import gaussians
from stream_worker.models.sam3d.result import measured
from stream_worker.settings import Sam3d

ROUNDS = 9


def shell(count: int) -> gaussians.Gaussians:
    numbers = np.random.default_rng(0)
    points = numbers.normal(size=(count, 3))
    points *= (1 + 0.02 * numbers.normal(size=(count, 1))) / np.linalg.norm(points, axis=1, keepdims=True)
    return gaussians.Gaussians(
        positions=(points * [0.5, 0.3, 0.4]).astype(np.float32),
        sh_dc=numbers.normal(size=(count, 3)).astype(np.float32),
        opacities=numbers.normal(3, 2, count).astype(np.float32),
        scales=numbers.normal(-5, 1, (count, 3)).astype(np.float32),
        rotations=numbers.normal(size=(count, 4)).astype(np.float32),
    )


def timed(what: str, work: Callable[[], object]) -> None:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - began))
    print(f"{what}: median {statistics.median(took):.0f} ms, {min(took):.0f} to {max(took):.0f} ms")


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    model = shell(count)
    ply = gaussians.to_ply(model)
    answer = {"pose": {"rotation": [1, 0, 0, 0], "translation": [0, 0, 2], "scale": [2, 2, 2]}}
    print(f"{count} Gaussians, one core")
    timed("writing the PLY", lambda: gaussians.to_ply(model))
    timed("volume and box, from the PLY, with its checks", lambda: measured(answer, ply, Sam3d()))


if __name__ == "__main__":
    main()
