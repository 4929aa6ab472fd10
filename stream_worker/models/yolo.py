"""Finds objects with YOLO or YOLOE segmentation through ultralytics. Runs in a model's process.

Nothing is ever downloaded, installed or reported: weights are a local file that is opened with an allow-list
of classes, and a YOLOE's class names must be baked into it beforehand.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_worker.geometry.letterbox import Letterbox
from stream_worker.geometry.prototypes import encode_crop, full_resolution_mask
from stream_worker.models.gpu_memory import keep_within
from stream_worker.models.protocol import ModelFault

PADDING = 114  # the grey that ultralytics letterboxes with, in training as well

Image = NDArray[np.uint8]


class Yolo:
    """A segmentation network of ultralytics, one photo at a time.

    Options: `weights` (path of a .pt), `weights_sha256` (or None), `classes` (names, or None for all), `synonyms`
    (the label of a class, where that is not the weights' own name for it; several may share one), `confidence`,
    `iou`, `agnostic_nms`, `max_objects`, `image_size` (pixels, a multiple of 32), `min_box_px`, `device` (auto, cpu,
    cuda, cuda:N), `threads`, `gpu_memory_mb` (MiB, or None).

    A task is `{"pixels": path of height x width x 3 RGB bytes, "width", "height", "classes": [...] | None}`;
    its classes, where given, stand in place of the option's. The answer has `objects`, each with `label`,
    `confidence`, `box` (x0, y0, x1, y1), `mask` (COCO RLE) and `area_px`, all in the photo's own pixels; the
    most confident first, equal ones by box, so that the same photo always gives the same list.

    Faults in loading: `weights_missing`, `weights_mismatch`, `weights_unusable`, `classes_unknown`,
    `device_missing`. In a task: `unknown_class`.
    """

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        path = Path(options["weights"])
        sha256 = _checked(path, options.get("weights_sha256"))
        _seal_off()
        torch, ultralytics = import_module("torch"), import_module("ultralytics")
        torch.set_num_threads(int(options["threads"]))
        self._options = options
        self._size = int(options["image_size"])
        self._device = _device(str(options["device"]), torch.cuda.is_available())
        keep_within(torch, options.get("gpu_memory_mb"))
        ultralytics.settings.update({"sync": False})
        model = _open(path, ultralytics)
        self._names: dict[int, str] = dict(model.names)
        self._predictor = _predictor_class()(overrides=self._arguments())
        self._predictor.setup_model(model.model, verbose=False)
        self._labels = self._names  # until the synonyms are known to be of classes that there are
        self._labels = self._labelled(options.get("synonyms") or {})
        self._classes = self._indices(options.get("classes"), "classes_unknown")
        return {
            "model": path.stem,
            "version": f"ultralytics {ultralytics.__version__}",
            "weights_sha256": sha256,
            "classes": sorted(set(self._labels.values())),
            "image_size": self._size,
            "device": self._device,
        }

    def warm_up(self) -> None:
        """Have kernels chosen and memory taken. One shape is enough: the network only ever sees one square."""
        grey = np.full((self._size, self._size, 3), PADDING, dtype=np.uint8)
        for _ in range(3 if self._device.startswith("cuda") else 1):
            self._detect(grey, None)

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        began = time.perf_counter()
        width, height = int(task["width"]), int(task["height"])
        asked = task.get("classes")
        classes = self._classes if asked is None else self._indices(asked, "unknown_class")
        letterbox = Letterbox(width, height, self._size)
        photo: Image = np.memmap(task["pixels"], dtype=np.uint8, mode="r", shape=(height, width, 3))
        found, logits = self._detect(on_square(photo, letterbox), classes)
        inferred = time.perf_counter()
        objects = self._objects(found, logits, letterbox)
        masked = time.perf_counter()
        times = {"infer_s": round(inferred - began, 4), "masks_s": round(masked - inferred, 4)}
        return {"objects": objects, "times": times}, b""

    def _detect(self, square: Image, classes: list[int] | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes with confidence and class (n, 6), and mask logits (n, rows, columns), both on the square."""
        self._predictor.args.classes = classes
        self._predictor(square[..., ::-1])  # ultralytics takes arrays for BGR
        found, logits = self._predictor.found
        return found, logits

    def _arguments(self) -> dict[str, Any]:
        """All that a prediction depends on, stated: defaults differ between kinds of models and versions."""
        return {
            "task": "segment",
            "mode": "predict",
            "imgsz": self._size,
            "rect": False,
            "batch": 1,
            "conf": self._options["confidence"],
            "iou": self._options["iou"],
            "agnostic_nms": self._options["agnostic_nms"],
            "max_det": self._options["max_objects"],
            "retina_masks": False,
            "augment": False,
            "device": self._device,
            "verbose": False,
            "save": False,
        }

    def _objects(
        self, found: NDArray[np.float32], logits: NDArray[np.float32], letterbox: Letterbox
    ) -> list[dict[str, Any]]:
        objects = []
        smallest = self._options["min_box_px"]
        boxes = letterbox.boxes_to_photo(found[:, :4])
        for box, (confidence, kind), mask in zip(boxes, found[:, 4:6], logits, strict=True):
            if min(box[2] - box[0], box[3] - box[1]) < smallest:
                continue
            crop = full_resolution_mask(mask, box, letterbox)
            area = int(crop.inside.sum())
            if area == 0:
                continue
            objects.append(
                {
                    "label": self._labels[int(kind)],
                    "confidence": round(float(confidence), 6),
                    "box": [round(float(side), 2) for side in box],
                    "mask": encode_crop(crop, letterbox.height, letterbox.width),
                    "area_px": area,
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


def on_square(photo: Image, letterbox: Letterbox) -> Image:
    """The photo (height, width, 3) on its grey square (size, size, 3), pixel for pixel as ultralytics does it.

    Done here and not by `predict`, which would want a BGR copy of all the photo's pixels first.
    """
    import cv2

    inner_width, inner_height = letterbox.inner
    left, top = letterbox.origin
    square = np.full((letterbox.size, letterbox.size, 3), PADDING, dtype=np.uint8)
    place = square[top : top + inner_height, left : left + inner_width]
    if photo.shape[:2] == place.shape[:2]:
        place[:] = photo
    else:
        place[:] = cv2.resize(np.ascontiguousarray(photo), (inner_width, inner_height), interpolation=cv2.INTER_LINEAR)
    return square


def _predictor_class() -> type:
    """ultralytics' predictor, which hands out the mask logits before they become masks of the square."""
    torch = import_module("torch")
    results = import_module("ultralytics.engine.results")
    segment = import_module("ultralytics.models.yolo.segment")

    def construct_result(self: Any, pred: Any, img: Any, orig_img: Any, img_path: Any, proto: Any) -> Any:
        with torch.inference_mode():
            coefficients = pred[:, 6:].float()
            logits = (coefficients @ proto.float().flatten(1)).reshape(len(pred), *proto.shape[1:])
        self.found = pred[:, :6].float().cpu().numpy(), logits.cpu().numpy()
        return results.Results(orig_img, path=img_path, names=self.model.names, boxes=pred[:, :6])

    return type("LogitsPredictor", (segment.SegmentationPredictor,), {"construct_result": construct_result})


def _checked(path: Path, expected: str | None) -> str:
    """The sha256 of the weights. A name alone would make ultralytics download them: they must be there."""
    if not path.is_file():
        raise ModelFault("weights_missing", f"no weights at {path}: put a YOLO or YOLOE segmentation .pt there")
    if path.suffix != ".pt":
        raise ModelFault("weights_unusable", f"{path}: weights are a .pt file")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else ""
            if not sha256:  # Python 3.10
                sha256 = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise ModelFault("weights_unusable", f"{path}: {error.strerror}") from error
    if expected and sha256 != expected:
        raise ModelFault("weights_mismatch", f"{path} has sha256 {sha256}, but {expected} is asked for")
    return sha256


def _seal_off() -> None:
    """What ultralytics must find in the environment when it is imported."""
    private = tempfile.mkdtemp(prefix="yolo-")
    os.environ.update(
        YOLO_OFFLINE="true",  # no DNS probe, no analytics
        YOLO_AUTOINSTALL="false",
        ULTRALYTICS_SAFE_LOAD="1",  # a .pt is a pickle: only known classes may be in it
        YOLO_CONFIG_DIR=private,
        MPLCONFIGDIR=private,
    )


def _open(path: Path, ultralytics: Any) -> Any:
    try:
        model = ultralytics.YOLO(str(path))
        head = model.model.model[-1]
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFault("weights_unusable", f"{path} can't be loaded: {first[:300]}") from error
    if model.task != "segment":
        raise ModelFault("weights_unusable", f"{path} is a {model.task} model: a segmentation model is needed")
    promptable = type(model).__name__ == "YOLOE" and not hasattr(head, "lrpc")
    if promptable and not hasattr(model.model, "pe") and not getattr(head, "is_fused", False):
        # It would predict with empty prompts, and say nothing.
        raise ModelFault(
            "weights_unusable", f"{path} is a YOLOE without class names: run set_classes once, online, and save it"
        )
    return model


def _device(asked: str, cuda: bool) -> str:
    """The child sees only the GPU that it was given, as number 0."""
    kind = asked.partition(":")[0]
    if kind == "auto":
        return "cuda:0" if cuda else "cpu"
    if kind == "cuda" and not cuda:
        raise ModelFault("device_missing", f"device {asked}: torch finds no such GPU; use cpu or auto")
    return "cuda:0" if kind == "cuda" else kind
