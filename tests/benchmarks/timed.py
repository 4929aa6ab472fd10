"""Models that only take their time: what is measured with them is the service, and nothing else.

A photo says how many objects it has, and how long it and each of them takes: see `photo`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from stream_worker.geometry import masks
from tests.stubs import SIDE, Dots


def photo(number: int, image_ms: int, objects_ms: Sequence[int]) -> bytes:
    """A PNG whose bytes are its own, by `number`: the detector takes `image_ms` for it, each object `objects_ms`."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for row, value in enumerate((number, image_ms, len(objects_ms), *objects_ms)):
        pixels[row, 0] = (value % 256, value // 256 % 256, value // 65536)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class TimedDetector:
    """Finds what the photo says, after the time that it says; an object's time is its label."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": "timed", "version": "1", "weights_sha256": None}

    def warm_up(self) -> None: ...

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        began = time.monotonic()
        shape = (task["height"], task["width"], 3)
        column = np.memmap(task["pixels"], np.uint8, "r", shape=shape)[:, 0].astype(int) @ (1, 256, 65536)
        objects = []
        for index, object_ms in enumerate(column[3 : 3 + column[2]]):
            mask = np.zeros(shape[:2], bool)
            mask[4:20, 4 + index : 24 + index] = True
            found = {"label": f"{object_ms} ms", "confidence": round(0.9 - 0.01 * index, 2)}
            objects.append(
                found | {"box": [4 + index, 4, 24 + index, 20], "mask": masks.encode(mask), "area_px": int(mask.sum())}
            )
        time.sleep(max(0.0, column[1] / 1000 - (time.monotonic() - began)))
        return {"objects": objects, "times": {}}, b""


class TimedDots(Dots):
    """A few Gaussians, after the time that the object's label says."""

    def seconds(self, task: dict[str, Any]) -> float:
        return int(task["label"].split()[0]) / 1000


class SayingDots(TimedDots):
    """... and says when it worked: `worked <from> <to>`, of the monotonic clock."""

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        began = time.monotonic()
        made = super().infer(task, payload)
        print(f"worked {began:.6f} {time.monotonic():.6f}", flush=True)
        return made
