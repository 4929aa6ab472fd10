"""Measures a model on held-out scenes: COCO's mask and box mAP at full resolution, and the time an image takes.

    python -m stream_worker.scenes.dataset held-out/
    python -m stream_worker.scenes.evaluate held-out/ stream_worker/models/weights/rooms-seg.pt --sidecar

Predictions come from ultralytics' own `predict` at the size that is served, with masks at the photo's resolution;
the score is pycocotools'. Objects that do not count (`stream_worker.scenes.split.counts`) are left out
of it. `--sidecar` writes the figures beside the weights.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stream_worker.geometry import masks
from stream_worker.scenes.export import LICENCE
from stream_worker.scenes.offline import offline
from stream_worker.scenes.split import LEAST_AREA, LEAST_VISIBLE, LONGER_SIDE, TRAINING_FROM

LEAST_CONFIDENCE = 0.001
MOST_DETECTIONS = 100


def load(weights: Path) -> Any:
    """The model, for one CPU thread, without any access to the network."""
    offline()
    import torch
    import ultralytics

    torch.set_num_threads(1)
    model: Any = ultralytics.YOLO
    return model(str(weights))


def _blue_first(folder: Path, image: dict[str, Any]) -> Any:
    pixels = np.asarray(Image.open(folder / "images" / image["file_name"]).convert("RGB"))
    return np.ascontiguousarray(pixels[:, :, ::-1])


def detect(model: Any, folder: Path, images: list[dict[str, Any]], side: int) -> list[dict[str, Any]]:
    """COCO results for the images: every detection down to LEAST_CONFIDENCE, as COCO's curves need them."""
    found: list[dict[str, Any]] = []
    for image in images:
        (result,) = model.predict(
            _blue_first(folder, image),
            imgsz=side,
            conf=LEAST_CONFIDENCE,
            iou=0.7,
            max_det=MOST_DETECTIONS,
            retina_masks=True,
            device="cpu",
            verbose=False,
        )
        if result.masks is None:
            continue
        scores, labels = result.boxes.conf.tolist(), result.boxes.cls.int().tolist()
        boxes = result.boxes.xyxy.tolist()
        for mask, confidence, label, (x0, y0, x1, y1) in zip(result.masks.data, scores, labels, boxes, strict=True):
            found.append(
                {
                    "image_id": image["id"],
                    "category_id": label,
                    "score": confidence,
                    "segmentation": masks.encode(mask.numpy().astype(bool)),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                }
            )
    return found


def latency(model: Any, folder: Path, images: list[dict[str, Any]], side: int) -> float:
    """Median seconds of a predict call as in service (confidence 0.25, masks at network size), one CPU thread."""
    times: list[float] = []
    for image in images:
        pixels = _blue_first(folder, image)
        began = time.perf_counter()
        model.predict(pixels, imgsz=side, conf=0.25, device="cpu", verbose=False)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def score(annotations: Path, found: list[dict[str, Any]], images: list[int], kind: str) -> dict[str, Any]:
    """COCO's average precision: `kind` is "segm" or "bbox"."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        judge = COCOeval(truth, truth.loadRes([dict(f) for f in found]), kind)
        judge.params.imgIds = images
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    # Axes: IoU threshold, recall, class, area range (0: all), most detections (-1: 100).
    precision = judge.eval["precision"][:, :, :, 0, -1]
    classes = {}
    for index, number in enumerate(judge.params.catIds):
        here = precision[:, :, index]
        name = truth.cats[number]["name"]
        classes[name] = {"mAP50": _mean(here[0]), "mAP50_95": _mean(here)}
    return {"mAP50": round(float(judge.stats[1]), 4), "mAP50_95": round(float(judge.stats[0]), 4), "classes": classes}


def _mean(precision: Any) -> float:
    valid = precision[precision > -1]
    return round(float(valid.mean()), 4) if valid.size else float("nan")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m stream_worker.scenes.evaluate", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="a data set that stream_worker.scenes.dataset wrote")
    parser.add_argument("weights", type=Path, help="the model")
    parser.add_argument("--side", type=int, default=LONGER_SIDE, help="longer side that the network sees, pixels")
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--sidecar", action="store_true", help="write the figures beside the weights, as .json")
    args = parser.parse_args()
    content = json.loads((args.folder / "annotations.json").read_text())
    images = content["images"][: args.limit]
    numbers = [image["id"] for image in images]
    model = load(args.weights)
    seconds = latency(model, args.folder, images[:60], args.side)
    found = detect(model, args.folder, images, args.side)
    mask = score(args.folder / "annotations.json", found, numbers, "segm")
    box = score(args.folder / "annotations.json", found, numbers, "bbox")
    chosen = set(numbers)
    judged = sum(1 for a in content["annotations"] if a["image_id"] in chosen and not a["iscrowd"])
    held_out = {
        "first_seed": min(numbers),
        "last_seed": max(numbers),
        "images": len(numbers),
        "objects": judged,
        "counts": f"visible share >= {LEAST_VISIBLE} and area >= {LEAST_AREA} of the image",
    }
    measured = {
        "image_size": args.side,
        "held_out": held_out,
        "mask": mask,
        "box": box,
        "predict_s_one_cpu_thread": round(seconds, 4),
    }
    if args.sidecar:
        target = args.weights.with_suffix(".json")
        target.write_text(json.dumps(_sidecar(args.weights, content, measured), indent=2) + "\n")
    print(json.dumps(measured, indent=2))


def _sidecar(weights: Path, content: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    import torch

    saved = torch.load(weights, map_location="cpu", weights_only=False)  # our own file, just measured
    data = weights.read_bytes()
    return {
        "file": weights.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "architecture": saved["train_args"]["model"],
        "task": saved["train_args"]["task"],
        "classes": [category["name"] for category in content["categories"]],
        "date": saved["date"],
        "ultralytics": saved["version"],
        "licence": f"{LICENCE}: made with ultralytics, whose licence covers the weights",
        "training": {
            "scenes": saved["train_metrics"]["scenes"],
            "first_seed": TRAINING_FROM,
            "images_seen": saved["train_metrics"]["images"],
            "batches": saved["train_metrics"]["batches"],
            "epochs": round(saved["train_metrics"]["images"] / saved["train_metrics"]["scenes"], 1),
        },
        **measured,
    }


if __name__ == "__main__":
    main()
