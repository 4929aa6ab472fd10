"""Networks of every kind with random weights, and what ultralytics itself makes of them.

    python -m tests.integration.staged_networks FOLDER

saves a checkpoint of each kind, a photo, and the masks that ultralytics draws on it at full resolution, the
slow way; then compares our letterbox with theirs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from stream_worker.models.yolo.adapter import Yolo

KINDS = ("yolov8n-seg", "yolo11n-seg", "yolo26n-seg", "yoloe-11s-seg", "yoloe-26s-seg")
NAMES = ("sofa", "chair", "floor lamp")


def save(folder: Path) -> None:
    import torch
    from ultralytics import YOLO

    for kind in KINDS:
        torch.manual_seed(1)
        model = YOLO(f"{kind}.yaml")
        if kind.startswith("yoloe"):
            model.save(folder / f"{kind}-without-names.pt")
            model.set_classes(list(NAMES), torch.nn.functional.normalize(torch.randn(1, len(NAMES), 512), dim=-1))
        _wake_up(model)
        model.save(folder / f"{kind}.pt")
    YOLO("yolo11n.yaml").save(folder / "yolo11n.pt")


def _wake_up(model: object) -> None:
    """Fresh networks see next to nothing: no score stands out, and masks are all or nothing.

    A few batches of shapes give the normalisations their scales, and the outputs some contrast.
    """
    import torch

    network = model.model  # type: ignore[attr-defined]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        for _ in range(3):
            coarse = torch.rand(4, 3, 6, 6)
            network(torch.nn.functional.interpolate(coarse, (320, 320), mode="bicubic").clamp(0, 1))
    network.eval()


def draw(weights: Path, photo: Path) -> None:
    import numpy as np
    from ultralytics import YOLO

    settings = {"imgsz": 320, "rect": False, "conf": 0.0, "iou": 0.5, "max_det": 12, "agnostic_nms": True}
    (result,) = YOLO(weights).predict(np.load(photo)[..., ::-1], retina_masks=True, verbose=False, **settings)
    np.savez(
        weights.with_suffix(".npz"),
        boxes=result.boxes.xyxy.numpy(),
        confidences=result.boxes.conf.numpy(),
        masks=result.masks.data.numpy().astype(bool),
    )


def paint(photo: Path) -> None:
    """Coloured blobs, 1280 x 640: at 320 px its padding is a whole number of the network's cells."""
    import cv2
    import numpy as np

    coarse = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    np.save(photo, cv2.resize(coarse, (1280, 640), interpolation=cv2.INTER_CUBIC))


def compare_squares(out: Path) -> None:
    """Our letterbox and ultralytics' own, pixel by pixel."""
    import numpy as np
    from ultralytics.data.augment import LetterBox

    from stream_worker.geometry.letterbox import Letterbox
    from stream_worker.models.yolo.squares import on_square

    sizes = ((1920, 1080), (1080, 1920), (640, 480), (640, 640), (320, 200), (1201, 777), (2000, 1), (33, 1001))
    for width, height in sizes:
        photo = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        ours = on_square(photo, Letterbox(width, height, 640))
        assert np.array_equal(ours, LetterBox((640, 640), auto=False)(image=photo)), (width, height)
    out.write_text(f"{len(sizes)} squares are equal")


def together(weights: Path, photo: Path, out: Path) -> None:
    """What a network says of photos that it sees with others, in every order, and with a clock that runs away."""
    import numpy as np
    import torch
    from ultralytics import YOLO
    from ultralytics.utils import nms

    from stream_worker.geometry.letterbox import Letterbox
    from stream_worker.models.yolo.network import END_TO_END_ROWS, Found, Network
    from stream_worker.models.yolo.squares import on_square

    def network(count: int, confidence: float = 0.0) -> Network:
        limits: dict[str, Any] = {"confidence": confidence, "iou": 0.5, "agnostic_nms": True, "max_objects": 12}
        return Network(YOLO(weights), device="cpu", half=True, size=320, together=count, **limits)

    def same(one: Found, other: Found) -> bool:
        return np.array_equal(one.rows, other.rows) and np.array_equal(one.logits, other.logits)

    first: Any = np.load(photo)
    squares = [on_square(shown, Letterbox(1280, 640, 320)) for shown in (first, first[::-1].copy(), 255 - first)]
    said: dict[str, Any] = {}
    four = network(4)
    alone = [four.find([square], [None])[0] for square in squares]
    said["objects"] = [len(found.rows) for found in alone]
    said["as alone"] = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 1, 1, 1), (2, 0, 1, 2, 0, 1)):
        found = four.find([squares[number] for number in order], [None] * len(order))
        said["as alone"].append(all(same(one, alone[number]) for one, number in zip(found, order, strict=True)))
    said["own classes"] = [
        sorted(set(found.rows[:, 5].tolist())) for found in four.find([squares[0]] * 3, [[0], [2], []])
    ]
    ticks = iter(range(0, 10**9, 1000))
    nms.time.time = lambda: float(next(ticks))
    said["hurried"] = [same(*pair) for pair in zip(four.find(squares, [None] * 3), alone, strict=True)]
    raw = torch.zeros(1, 4 + four._classes + 32, 2100)
    raw[0, :4, :END_TO_END_ROWS] = torch.tensor([[20.0 * n + 10, 10, 8, 8] for n in range(END_TO_END_ROWS)]).T
    raw[0, 4, :END_TO_END_ROWS] = 0.5
    sure = network(1, 0.25)
    said["six"] = len(sure._kept(sure._candidates(raw, 1)[0], None))
    out.write_text(json.dumps(said))


def _threads() -> int:
    import torch

    return torch.get_num_threads()


class Loader:
    """A model that is any number of networks, each with its own options: torch is imported only once."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        self.networks: dict[str, tuple[Yolo, dict[str, Any]]] = {}
        return {}

    def warm_up(self) -> None:
        pass

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        key = json.dumps(task["options"])
        if key not in self.networks:
            network = Yolo()
            info = {**network.load(task["options"]), "threads": _threads()}
            network.warm_up()
            self.networks[key] = network, info
        network, info = self.networks[key]
        _, body = network.infer(task["task"], network.prepare(task["task"], payload))
        return {"info": info}, body()


if __name__ == "__main__":
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=tempfile.mkdtemp())
    folder = Path(sys.argv[1])
    save(folder)
    paint(folder / "photo.npy")
    for name in KINDS:
        draw(folder / f"{name}.pt", folder / "photo.npy")
    compare_squares(folder / "squares.txt")
    together(folder / "yoloe-11s-seg.pt", folder / "photo.npy", folder / "together.json")
