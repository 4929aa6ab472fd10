"""What the detector stage is measured against; each in a process of its own, which prints JSON.

python -m tests.benchmarks.detector_references weights KIND FILE PHOTO...  a network of random weights
python -m tests.benchmarks.detector_references bare OPTIONS PHOTO...       nothing but forward passes
python -m tests.benchmarks.detector_references loop OPTIONS TOPIC SERVERS COUNT
                                                                           predict(url), then commit, one by one
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stream_worker.geometry.letterbox import Letterbox
from stream_worker.models.yolo.network import Network
from stream_worker.models.yolo.squares import on_square
from stream_worker.models.yolo.weights import opened, seal_off

CANDIDATES = range(20, 500)
"""Boxes before the NMS: about as many as a network that has learnt something finds around five objects."""
PASSES = 30


def network(options: dict[str, Any], together: int) -> Network:
    """As the detector's child builds it."""
    torch = import_module("torch")
    built = Network(
        opened(Path(options["weights"]), import_module("ultralytics")),
        device=options["device"],
        half=True,
        size=options["image_size"],
        together=together,
        confidence=options["confidence"],
        iou=options["iou"],
        agnostic_nms=True,
        max_objects=options["max_objects"],
    )
    torch.set_num_threads(options["threads"])
    return built


def square(photo: str, size: int) -> Any:
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    return on_square(pixels, Letterbox(pixels.shape[1], pixels.shape[0], size))


def weights(kind: str, file: str, photos: list[str]) -> dict[str, Any]:
    """Random weights, and the confidence at which they find as many candidates as trained ones do, on which photos.

    On others they are as sure of every anchor as of any: an NMS of 8,400 boxes, which no trained network asks for.
    """
    from tests.integration.staged_networks import _wake_up

    torch, ultralytics = import_module("torch"), import_module("ultralytics")
    torch.manual_seed(1)
    model = ultralytics.YOLO(f"{kind}.yaml")
    _wake_up(model)
    model.save(file)
    any_of_it = {"weights": file, "device": "cpu", "image_size": 640, "confidence": 0.0, "iou": 0.7, "max_objects": 5}
    built = network({**any_of_it, "threads": os.cpu_count()}, 1)
    scores = []
    with torch.inference_mode():
        for photo in photos:
            raw = built._net(built._input([square(photo, 640)]))[0][0]
            scores.append(raw[0, 4 : 4 + built._classes].amax(0))

    def alike(confidence: float) -> list[str]:
        counts = [int((one > confidence).sum()) for one in scores]
        return [photo for photo, count in zip(photos, counts, strict=True) if count in CANDIDATES]

    middle = (CANDIDATES.start + CANDIDATES.stop) // 2
    confidence = max((float(one.topk(middle).values[-1]) for one in scores), key=lambda level: len(alike(level)))
    return {"confidence": confidence, "photos": alike(confidence)}


def bare(options: dict[str, Any], photos: list[str]) -> dict[str, Any]:
    """Images a second of forward passes over the same squares, in the same batches."""
    torch = import_module("torch")
    together = options["batch"]
    built = network(options, together)
    squares = [square(photo, options["image_size"]) for photo in photos]
    pixels = built._input((squares * together)[:together])
    times = []
    with torch.inference_mode():
        for _ in range(PASSES + 5):
            began = time.perf_counter()
            built._net(pixels)
            if built._device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return {"images_s": together / statistics.median(times[5:]), "torch": torch.__version__}


async def loop(options: dict[str, Any], topic: str, servers: str, count: int) -> dict[str, Any]:
    """The script that anybody would write first."""
    from aiokafka import AIOKafkaConsumer

    torch, ultralytics = import_module("torch"), import_module("ultralytics")
    model = ultralytics.YOLO(options["weights"])
    told = {"conf": options["confidence"], "iou": options["iou"], "max_det": options["max_objects"]}
    told |= {"imgsz": options["image_size"], "device": options["device"], "agnostic_nms": True, "verbose": False}
    done = []
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id=f"{topic}-plain-loop",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=120_000,  # while it predicts, its heartbeats wait
        max_poll_interval_ms=600_000,
    ) as consumer:
        async for record in consumer:
            model.predict(json.loads(record.value)["url"], **told)
            if not done:
                torch.set_num_threads(options["threads"])  # after ultralytics has set its own number
            await consumer.commit()
            done.append(time.monotonic())
            if len(done) == count:
                break
    skipped = count // 10
    return {"images_s": (len(done) - 1 - skipped) / (done[-1] - done[skipped])}


def main() -> None:
    seal_off()
    what, *told = sys.argv[1:]
    if what == "weights":
        said = weights(told[0], told[1], told[2:])
    elif what == "bare":
        said = bare(json.loads(told[0]), told[1:])
    else:
        said = asyncio.run(loop(json.loads(told[0]), told[1], told[2], int(told[3])))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
