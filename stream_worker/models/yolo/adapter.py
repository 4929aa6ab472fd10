"""Finds objects with YOLO or YOLOE segmentation through ultralytics. Runs in a model's process.

    preparer:  photos k + 1 on their squares
    main:      the network on photos k
    leaver:    the masks of photos k - 1 in full resolution

Nothing is ever downloaded, installed or reported: weights are a local file that is opened with an allow-list
of classes, and a YOLOE's class names must be baked into it beforehand.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stream_worker.geometry.letterbox import Letterbox
from stream_worker.geometry.prototypes import full_resolution_mask
from stream_worker.models.gpu_memory import keep_within
from stream_worker.models.protocol import ModelFault, failure
from stream_worker.models.yolo.network import Found, Network
from stream_worker.models.yolo.squares import Image, on_square
from stream_worker.models.yolo.weights import checked, opened, seal_off


class Placed(NamedTuple):
    """A photo, ready for the network."""

    square: Image
    letterbox: Letterbox
    classes: list[int] | None


Prepared = Placed | dict[str, Any]
"""A photo, or why it can't be."""


class Yolo:
    """A segmentation network of ultralytics, several photos at a time.

    Options: `weights` (path of a .pt), `weights_sha256` (or None), `classes` (names, or None for all), `synonyms`
    (the label of a class, where that is not the weights' own name for it; several may share one), `confidence`,
    `iou`, `agnostic_nms`, `max_objects`, `image_size` (pixels, a multiple of 32), `min_box_px`, `batch` (photos),
    `half`, `device` (auto, cpu, cuda, cuda:N), `threads`, `gpu_memory_mb` (MiB, or None).

    A task is `{"photos": [...]}`, each `{"pixels": path of height x width x 3 RGB bytes, "width", "height", "classes":
    [...] | None}`; its classes, where given, stand in place of the option's. The body is a JSON list of an answer for
    each: `objects`, each with `label`, `confidence`, `box` (x0, y0, x1, y1), `mask` (COCO RLE) and `area_px`, all in
    the photo's own pixels, the most confident first, equal ones by box, so that the same photo always gives the same
    list; and `times`. Or a `fault` or an `error`, as in a RESULT.

    Faults in loading: `weights_missing`, `weights_mismatch`, `weights_unusable`, `classes_unknown`,
    `device_missing`. Of a photo: `unknown_class`.
    """

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        path = Path(options["weights"])
        sha256 = checked(path, options.get("weights_sha256"))
        seal_off()
        torch, ultralytics = import_module("torch"), import_module("ultralytics")
        self._size = int(options["image_size"])
        self._smallest = options["min_box_px"]
        device = _device(str(options["device"]), torch.cuda.is_available())
        keep_within(torch, options.get("gpu_memory_mb"))
        ultralytics.settings.update({"sync": False})
        model = opened(path, ultralytics)
        self._names: dict[int, str] = dict(model.names)
        self._labels = self._names  # until the synonyms are known to be of classes that there are
        self._labels = self._labelled(options.get("synonyms") or {})
        self._classes = self._indices(options.get("classes"), "classes_unknown")
        batch = int(options["batch"])
        self._network = Network(
            model,
            device=device,
            half=options["half"],
            size=self._size,
            together=1 if device == "cpu" else batch,  # a CPU gains nothing from more
            confidence=options["confidence"],
            iou=options["iou"],
            agnostic_nms=options["agnostic_nms"],
            max_objects=options["max_objects"],
        )
        # Only now: choosing a device, ultralytics sets a number of its own.
        torch.set_num_threads(min(int(options["threads"]), len(os.sched_getaffinity(0))))
        return {
            "model": path.stem,
            "version": f"ultralytics {ultralytics.__version__}",
            "weights_sha256": sha256,
            "classes": sorted(set(self._labels.values())),
            "image_size": self._size,
            "device": device,
            "batch": batch,
        }

    def warm_up(self) -> None:
        """Have kernels chosen and memory taken."""
        self._network.warm_up()

    def prepare(self, task: dict[str, Any], payload: bytes) -> list[Prepared]:
        """The photos on their squares."""
        return [self._placed(photo) for photo in task["photos"]]

    def infer(self, task: dict[str, Any], prepared: list[Prepared]) -> tuple[dict[str, Any], Callable[[], bytes]]:
        began = time.perf_counter()
        placed = [one for one in prepared if isinstance(one, Placed)]
        found = self._network.find([one.square for one in placed], [one.classes for one in placed])
        each_s = (time.perf_counter() - began) / max(1, len(placed))

        def body() -> bytes:
            results = iter(found)
            answers = (
                self._answer(next(results), one, each_s) if isinstance(one, Placed) else json.dumps(one)
                for one in prepared
            )
            return f"[{','.join(answers)}]".encode()

        return {}, body

    def _placed(self, photo: dict[str, Any]) -> Prepared:
        try:
            width, height = int(photo["width"]), int(photo["height"])
            asked = photo.get("classes")
            classes = self._classes if asked is None else self._indices(asked, "unknown_class")
            letterbox = Letterbox(width, height, self._size)
            pixels: Image = np.memmap(photo["pixels"], dtype=np.uint8, mode="r", shape=(height, width, 3))
            return Placed(on_square(pixels, letterbox), letterbox, classes)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is this photo's and not its batch's)
            return failure(error)

    def _answer(self, found: Found, placed: Placed, infer_s: float) -> str:
        """The JSON of one photo. `infer_s` is an equal part of what the network took for all photos of the task."""
        began = time.perf_counter()
        try:
            if not np.isfinite(found.rows).all():
                raise ModelFault("not_finite", "the network's boxes hold NaN or Inf")
            objects = self._objects(found, placed.letterbox)
            masks_s = time.perf_counter() - began
            return json.dumps(
                {"objects": objects, "times": {"infer_s": round(infer_s, 4), "masks_s": round(masks_s, 4)}}
            )
        except Exception as error:  # noqa: BLE001  (as above)
            return json.dumps(failure(error))

    def _objects(self, found: Found, letterbox: Letterbox) -> list[dict[str, Any]]:
        objects = []
        boxes = letterbox.boxes_to_photo(found.rows[:, :4])
        for box, (confidence, kind), mask in zip(boxes, found.rows[:, 4:6], found.logits, strict=True):
            if min(box[2] - box[0], box[3] - box[1]) < self._smallest:
                continue
            runs = full_resolution_mask(mask, box, letterbox)
            if runs.area == 0:
                continue
            objects.append(
                {
                    "label": self._labels[int(kind)],
                    "confidence": round(float(confidence), 6),
                    "box": [round(float(side), 2) for side in box],
                    "mask": runs.rle(),
                    "area_px": runs.area,
                }
            )
        return sorted(objects, key=lambda found: (-found["confidence"], found["box"], found["label"]))

    def _labelled(self, synonyms: dict[str, str]) -> dict[int, str]:
        """The label of each class. Raises ModelFault for a synonym of a class that there is not."""
        self._indices(list(synonyms), "classes_unknown")
        return {number: synonyms.get(name, name) for number, name in self._names.items()}

    def _indices(self, names: list[str] | None, code: str) -> list[int] | None:
        """The network's numbers for class names, or for labels that classes share; None for all classes."""
        if names is None:
            return None
        numbers: dict[str, set[int]] = {}
        for known in (self._names, self._labels):
            for number, name in known.items():
                numbers.setdefault(name, set()).add(number)
        if unknown := [name for name in names if name not in numbers]:
            shown = ", ".join(sorted(numbers)[:40])
            raise ModelFault(code, f"these weights know no class {unknown[0]!r}; they know: {shown}")
        return sorted(set().union(*(numbers[name] for name in names)))


def _device(asked: str, cuda: bool) -> str:
    """The child sees only the GPU that it was given, as number 0."""
    kind = asked.partition(":")[0]
    if kind == "auto":
        return "cuda:0" if cuda else "cpu"
    if kind == "cuda" and not cuda:
        raise ModelFault("device_missing", f"device {asked}: torch finds no such GPU; use cpu or auto")
    return "cuda:0" if kind == "cuda" else kind
