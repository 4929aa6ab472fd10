"""The shipped weights are the measured ones, know the renderer's classes, and find furniture under safe loading."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import stream_worker.models
from stream_worker.scenes import CLASSES
from stream_worker.scenes.split import HELD_OUT, TRAINING_FROM

WEIGHTS = Path(stream_worker.models.__file__).parent / "weights" / "rooms-seg.pt"
SIDECAR = json.loads(WEIGHTS.with_suffix(".json").read_text())

INFERENCE = """
import json, sys
from stream_worker.scenes.offline import offline
offline()
import numpy as np, torch, ultralytics
from stream_worker.scenes.split import HELD_OUT, counts, scene
torch.set_num_threads(1)
model = ultralytics.YOLO(sys.argv[1])
best = []
for seed in HELD_OUT[:4]:
    drawn = scene(seed)
    pixels = np.ascontiguousarray(drawn.rgb[:, :, ::-1])
    (result,) = model.predict(pixels, imgsz=640, conf=0.25, retina_masks=True, device="cpu", verbose=False)
    found = [] if result.masks is None else list(zip(result.boxes.cls.tolist(), result.masks.data.numpy() > 0.5))
    for thing in drawn.objects:
        if counts(thing):
            overlaps = [(m & thing.mask).sum() / (m | thing.mask).sum()
                        for c, m in found if model.names[int(c)] == thing.label]
            best.append(float(max(overlaps, default=0.0)))
print(json.dumps({"task": model.task, "names": list(model.names.values()), "overlaps": best}))
"""


def test_file_is_the_one_that_was_measured() -> None:
    data = WEIGHTS.read_bytes()
    assert hashlib.sha256(data).hexdigest() == SIDECAR["sha256"]
    assert len(data) == SIDECAR["size"] <= 8_000_000


def test_classes_are_the_renderers() -> None:
    assert tuple(SIDECAR["classes"]) == CLASSES


def test_figures_come_from_scenes_that_were_not_trained_on() -> None:
    held_out = SIDECAR["held_out"]
    assert held_out["images"] >= 500
    assert HELD_OUT.start <= held_out["first_seed"] <= held_out["last_seed"] < HELD_OUT.stop
    trained = range(
        SIDECAR["training"]["first_seed"], SIDECAR["training"]["first_seed"] + SIDECAR["training"]["scenes"]
    )
    assert trained.start == TRAINING_FROM >= HELD_OUT.stop
    assert SIDECAR["mask"]["mAP50"] >= 0.85


def test_safe_loading_finds_the_furniture() -> None:
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    command = [sys.executable, "-c", INFERENCE, str(WEIGHTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["task"] == "segment"
    assert tuple(answer["names"]) == CLASSES
    overlaps = answer["overlaps"]
    assert len(overlaps) >= 8
    assert sum(share > 0.5 for share in overlaps) >= 0.8 * len(overlaps)
