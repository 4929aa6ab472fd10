"""Training: the batched mask loss is ultralytics' own, targets fit the pixels, the schedule rises and falls."""

import importlib.util
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from stream_worker.scenes.feed import LEAST_PIXELS, MOST_OBJECTS, _targets  # noqa: E402
from stream_worker.scenes.train import LAST_RATE, PEAK_RATE, rate  # noqa: E402


def example() -> dict[str, "torch.Tensor"]:
    ids = torch.zeros((2, 64, 64), dtype=torch.uint8)
    ids[0, 8:40, 4:36] = 1
    ids[0, 20:60, 40:60] = 3
    ids[1, 10:50, 10:50] = 2
    classes = torch.full((2, MOST_OBJECTS), -1)
    classes[:, :3] = torch.tensor([4, 5, 6])
    whole = torch.zeros((2, MOST_OBJECTS))
    return {"img": torch.rand(2, 3, 64, 64), **_targets(ids, whole, classes, 64)}


def test_targets_are_boxes_classes_and_masks_of_what_is_there() -> None:
    batch = example()
    assert batch["batch_idx"].tolist() == [0, 0, 1]
    assert batch["cls"].tolist() == [4, 6, 5]
    assert (batch["bboxes"] * 64).tolist() == [[20, 24, 32, 32], [50, 40, 20, 40], [30, 30, 40, 40]]
    assert batch["masks"].shape == (2, 16, 16)
    assert batch["masks"][0, 4, 4] == 1
    assert batch["masks"][0, 10, 12] == 2
    assert batch["masks"][1, 6, 6] == 1
    assert batch["masks"][1, 0, 0] == 0


def test_what_is_cut_off_is_no_target() -> None:
    ids = torch.zeros((1, 640, 640), dtype=torch.uint8)
    ids[0, :10, :10] = 1
    classes = torch.zeros((1, MOST_OBJECTS), dtype=torch.int64)
    share = 100 / 640**2
    assert LEAST_PIXELS < 100
    assert len(_targets(ids, torch.full((1, MOST_OBJECTS), share), classes, 640)["cls"]) == 1
    cut = _targets(ids, torch.full((1, MOST_OBJECTS), share * 10), classes, 640)
    assert len(cut["cls"]) == 0
    assert not cut["masks"].any()


COMPARISON = """
import torch
from stream_worker.scenes.train import build
from tests.unit.scenes.test_training import example
torch.manual_seed(1)
torch.set_num_threads(1)
model = build(torch.device("cpu")).train()
from stream_worker.scenes.mask_loss import BatchedSegmentationLoss
from ultralytics.utils.loss import v8SegmentationLoss
batch = example()
outputs = model(batch["img"])
ours, _ = BatchedSegmentationLoss(model)(outputs, batch)
theirs, _ = v8SegmentationLoss(model)(outputs, batch)
assert theirs[1] > 0, theirs
assert torch.allclose(ours, theirs, rtol=1e-4), (ours, theirs)
"""


def test_batched_mask_loss_is_the_original() -> None:
    if importlib.util.find_spec("ultralytics") is None:
        pytest.skip("ultralytics is not installed")
    # In a process of its own: importing ultralytics patches torch and Pillow for everybody else.
    done = subprocess.run([sys.executable, "-c", COMPARISON], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_rate_rises_then_falls() -> None:
    rates = [rate(step / 100) for step in range(101)]
    top = rates.index(max(rates))
    assert rates[0] < PEAK_RATE / 10
    assert rates[top] <= PEAK_RATE * 1.02
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(LAST_RATE)
