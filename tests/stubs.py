"""Models for tests of the service itself: what they find is written in the photo, so any result can be foretold."""

from __future__ import annotations

import io
import os
import signal
import time
from typing import Any

import numpy as np
from PIL import Image

from stream_worker.geometry import gaussians, masks
from stream_worker.models.protocol import ModelFault

SIDE = 64
"""Photos are this high and wide, pixels."""
OBJECT_S = 0.02
"""How long `Dots` takes for an object, seconds."""


def photo(number: int, objects: int, fates: str = "", object_ms: int = round(1000 * OBJECT_S)) -> bytes:
    """A PNG that `Counted` finds `objects` objects in; `number` makes its bytes its own.

    What `ScriptedDots` is to do with each object: a letter an object, see there, and `object_ms`, its time.
    """
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[0, 0] = (objects, number % 256, number // 256)
    pixels[1, : len(fates), 0] = list(fates.encode())
    pixels[2, 0] = (object_ms % 256, object_ms // 256, 0)
    pixels[8:, 8:] = (40 + number % 200, 120, 60)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Counted:
    """A detector that reads the number of objects from the photo's first pixel, and finds as many squares."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": "counted", "version": "1", "weights_sha256": None}

    def warm_up(self) -> None: ...

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        shape = (task["height"], task["width"], 3)
        count = int(np.memmap(task["pixels"], np.uint8, "r", shape=shape)[0, 0, 0])
        objects = []
        for index in range(count):
            left, top = 4 + 12 * (index % 4), 4 + 12 * (index // 4)
            mask = np.zeros(shape[:2], bool)
            mask[top : top + 10, left : left + 10] = True
            objects.append(
                {
                    "label": f"square-{index}",
                    "confidence": round(0.9 - 0.01 * index, 2),
                    "box": [left, top, left + 10, top + 10],
                    "mask": masks.encode(mask),
                    "area_px": 100,
                }
            )
        return {"objects": objects, "times": {}}, b""


class Faulty(Counted):
    """`Counted`, but some numbers of objects stand for a fault of the model itself."""

    REFUSE, CRASH, HANG = 201, 202, 203

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        shape = (task["height"], task["width"], 3)
        count = int(np.memmap(task["pixels"], np.uint8, "r", shape=shape)[0, 0, 0])
        if count == self.REFUSE:
            raise ModelFault("detect_failed", "refused")
        if count == self.CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        if count == self.HANG:
            time.sleep(3600)
        return super().infer(task, payload)


class Scripted(Faulty):
    """`Faulty`, and the labels carry on what the photo says of each object: its fate, its number, its time."""

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        header, body = super().infer(task, payload)
        shape = (task["height"], task["width"], 3)
        pixels = np.memmap(task["pixels"], np.uint8, "r", shape=shape)
        object_ms = int(pixels[2, 0, 0]) + 256 * int(pixels[2, 0, 1])
        for index, one in enumerate(header["objects"]):
            one["label"] = f"{chr(pixels[1, index, 0] or ord(ScriptedDots.FINE))} {index} {object_ms}"
        return header, body


class Dots:
    """A reconstructor that gives the mask's box a few Gaussians, in `OBJECT_S` seconds."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": "dots", "version": "1", "weights_sha256": None}

    def warm_up(self) -> None: ...

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        time.sleep(self.seconds(task))
        x0, y0, x1, y1 = masks.box(task["mask"])
        points = np.array([[x, y, z] for x in (x0, x1) for y in (y0, y1) for z in (0, 1)], np.float32)
        count = len(points)
        ply = gaussians.to_ply(
            gaussians.Gaussians(
                positions=points,
                sh_dc=np.zeros((count, 3), np.float32),
                opacities=np.ones(count, np.float32),
                scales=np.zeros((count, 3), np.float32),
                rotations=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
            )
        )
        size = {"width": float(x1 - x0), "height": float(y1 - y0), "depth": 1.0}
        header = {
            "gaussians": count,
            "frame": "pixels",
            "unit": "px",
            "oriented_box": {"center": [0.0, 0.0, 0.0], "rotation": np.eye(3).tolist(), **size},
            "volume": size["width"] * size["height"],
            "volume_method": "box",
            "pose": {"rotation": [1.0, 0.0, 0.0, 0.0], "translation": [0.0, 0.0, 0.0], "scale": 1.0},
            "times": {},
        }
        return header, ply

    def seconds(self, task: dict[str, Any]) -> float:
        """How long this object takes."""
        return OBJECT_S


class ScriptedDots(Dots):
    """`Dots` that does with an object what its label says, see `Scripted`."""

    FINE, REFUSE, CRASH, HANG = ".", "r", "c", "h"

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        fate = task["label"].split()[0]
        if fate == self.REFUSE:
            raise ModelFault("reconstruct_failed", "refused")
        if fate == self.CRASH:
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == self.HANG:
            time.sleep(3600)
        return super().infer(task, payload)

    def seconds(self, task: dict[str, Any]) -> float:
        return int(task["label"].split()[2]) / 1000
