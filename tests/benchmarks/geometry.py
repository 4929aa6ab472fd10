"""What the service does with an object's Gaussians and its mask on one core: `python -m tests.benchmarks.geometry`.

A noisy shell of an ellipsoid, 300,000 Gaussians unless told otherwise (COUNT). The mask of an object as large as its
photo, from the network's 160 x 160 logits to run lengths, beside every pixel interpolated by OpenCV and encoded by
pycocotools. Prints medians and extremes in milliseconds.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_worker.geometry import gaussians, masks
from stream_worker.geometry.letterbox import Letterbox
from stream_worker.geometry.prototypes import full_resolution_mask
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


def blob() -> NDArray[np.float32]:
    """The logits of a round object with an uneven edge, over a square of 640 pixels."""
    y, x = np.mgrid[:160, :160]
    noise = np.random.default_rng(0).normal(scale=3, size=(160, 160))
    return np.asarray(55 - np.hypot(x - 80, y - 80) + noise, dtype=np.float32)


def by_pixel(logits: NDArray[np.float32], letterbox: Letterbox) -> object:
    """The mask as most do it."""
    (width, height), (left, top) = letterbox.inner, letterbox.origin
    inner = logits[top // 4 : (top + height) // 4, left // 4 : (left + width) // 4]
    return masks.encode(cv2.resize(inner, (letterbox.width, letterbox.height)) > 0)


def timed(what: str, work: Callable[[], object]) -> None:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - began))
    print(f"{what}: median {statistics.median(took):.3g} ms, {min(took):.3g} to {max(took):.3g} ms")


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300_000
    model = shell(count)
    ply = gaussians.to_ply(model)
    answer = {"pose": {"rotation": [1, 0, 0, 0], "translation": [0, 0, 2], "scale": [2, 2, 2]}}
    print(f"{count} Gaussians, one core")
    timed("writing the PLY", lambda: gaussians.to_ply(model))
    timed("volume and box, from the PLY, with its checks", lambda: measured(answer, ply, Sam3d()))
    cv2.setNumThreads(1)
    logits = blob()
    for width, height in [(1280, 960), (4000, 3000)]:
        letterbox, box = Letterbox(width, height, 640), (0, 0, width, height)
        ours = partial(full_resolution_mask, logits, box, letterbox)
        timed(f"a mask of {width} x {height}", lambda made=ours: made().rle())
        timed(f"a mask of {width} x {height}, every pixel", partial(by_pixel, logits, letterbox))


if __name__ == "__main__":
    main()
