"""Models for tests of the service itself: what they find is written in the photo, so any result can be foretold."""

from __future__ import annotations

import ctypes
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stream_worker.geometry import gaussians, masks
from stream_worker.models.child import Child
from stream_worker.models.protocol import PREFIX, ModelFault

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


class Ragged(Counted):
    """`Counted`, but the first object's mask is every other pixel of the photo: its run lengths fill kilobytes."""

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        found, body = super().infer(task, payload)
        checkered = np.indices((task["height"], task["width"])).sum(axis=0) % 2 == 1
        found["objects"][0] |= {"mask": masks.encode(checkered), "area_px": int(checkered.sum())}
        return found, body


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


Made = tuple[dict[str, Any], bytes]


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


class FaultyDots(Dots):
    """`Dots`, but an object's label names a fault: the method of that name stages it.

    `once:<fault>` stages it at the first attempt only, also where that ended the process: a file in HOME remembers.
    """

    poisoned = False

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        hang = Path.home() / "hang in the next load"
        if hang.exists():
            hang.unlink()
            print(f"hang in load of {os.getpid()}", flush=True)
            self.hang()
        return super().load(options)

    def infer(self, task: dict[str, Any], payload: bytes) -> Made:
        label = task["label"]
        once, fault = label.startswith("once:"), label.removeprefix("once:")
        self.made = super().infer(task, payload)
        if self.poisoned:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        seen = Path.home() / label
        if hasattr(FaultyDots, fault) and not (once and seen.exists()):
            seen.touch()
            getattr(self, fault)()
        return self.made

    # ------------------------------------------------------------------ of the process

    def sigkill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def sigsegv(self) -> None:
        ctypes.string_at(0)

    def hang(self) -> None:
        while True:  # a signal ends the sleep, and the host sends one to see the stacks
            ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the GIL: no Python thread of the process runs

    def hang_in_the_next_load(self) -> None:
        (Path.home() / "hang in the next load").touch()
        self.sigkill()

    def no_frame(self) -> None:
        os.write(_child()._results_fd, b"Downloading weights: 100%\n")
        time.sleep(3600)

    def slow(self) -> None:
        time.sleep(2)

    def grow(self) -> None:
        self.held = b"x" * (150 * 2**20)

    def cuda_oom(self) -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    def sticky_cuda_error(self) -> None:
        self.poisoned = True
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def says_the_unspeakable(self) -> None:
        raise ModelFault("odd", "no such file: \udc80")

    # ------------------------------------------------------------------ of the answer

    def nan_geometry(self) -> None:
        self.made[0]["volume"] = float("nan")

    def infinite_geometry(self) -> None:
        """By hand: 1e999 is JSON, and every reader makes infinity of it."""
        child = _child()
        header = {"type": "RESULT", "id": child._task_id, "generation": child._generation, "busy_s": 0.0}
        encoded = json.dumps({**header, "result": {**self.made[0], "volume": "?"}}).replace('"?"', "1e999").encode()
        with child._write_lock:
            os.write(child._results_fd, PREFIX.pack(b"SWM1", len(encoded), len(self.made[1])) + encoded + self.made[1])

    def negative_size(self) -> None:
        self.made[0]["oriented_box"]["width"] = -1.0

    def no_points(self) -> None:
        self._rewrite(0)
        self.made[0]["gaussians"] = 0

    def no_points_behind_a_clean_header(self) -> None:
        self._rewrite(0)

    def no_ply(self) -> None:
        self.made = self.made[0], b""

    def fewer_points_than_said(self) -> None:
        self._rewrite(3)

    def nan_in_the_ply(self) -> None:
        self.made = self.made[0], self.made[1][:-4] + np.float32(np.nan).tobytes()

    def no_geometry(self) -> None:
        self.made = {}, self.made[1]

    def half_a_character(self) -> None:
        self.made[0]["frame"] = "\ud800"

    def a_text_larger_than_an_event(self) -> None:
        self.made[0]["frame"] = "x" * 2_000_000

    def _rewrite(self, count: int) -> None:
        dots = gaussians.from_ply(self.made[1])
        kept = (dots.positions, dots.sh_dc, dots.opacities, dots.scales, dots.rotations)
        self.made = self.made[0], gaussians.to_ply(gaussians.Gaussians(*(values[:count] for values in kept)))


class Garbled(Counted):
    """`Counted`, but some numbers of objects stand for an answer that can't be."""

    NAN, BOX, OTHER_SIZE, BROKEN_MASK, TOO_MANY, NO_LIST, NO_LABEL = range(211, 218)

    def infer(self, task: dict[str, Any], payload: bytes) -> Made:
        shape = (task["height"], task["width"], 3)
        pixels = np.memmap(task["pixels"], np.uint8, "r", shape=shape)
        count = int(pixels[0, 0, 0])
        if count < self.NAN:
            return super().infer(task, payload)
        one: dict[str, Any] = {
            "label": "square",
            "confidence": 0.5,
            "box": [4, 4, 14, 14],
            "mask": masks.encode(np.ones(shape[:2], bool)),
            "area_px": 100,
        }
        wrong: dict[int, dict[str, Any]] = {
            self.NAN: {"confidence": float("nan")},
            self.BOX: {"box": [14, 4, 4, 14]},
            self.OTHER_SIZE: {"mask": masks.encode(np.ones((shape[0] + 1, shape[1]), bool))},
            self.BROKEN_MASK: {"mask": {"size": list(shape[:2]), "counts": "0"}},
            self.NO_LABEL: {"label": "\ud800"},
        }
        objects: Any = [{**one, **wrong.get(count, {})}] * (1000 if count == self.TOO_MANY else 1)
        return {"objects": "none" if count == self.NO_LIST else objects}, b""


def _child() -> Child:
    """The child that this model lives in: it is up the stack."""
    frame = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), Child):
        assert frame.f_back is not None
        frame = frame.f_back
    child: Child = frame.f_locals["self"]
    return child
