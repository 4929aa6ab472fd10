"""The detector's network on a GPU: what it says of a photo, in whatever company, and beside a CPU.

`python3 -m pytest -v --noconftest -p no:cacheprovider tests/gpu/test_yolo.py`, where ultralytics is installed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU", allow_module_level=True)
if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("ultralytics is not installed", allow_module_level=True)

from stream_worker.models.yolo.network import Found, Network  # noqa: E402
from stream_worker.models.yolo.weights import seal_off  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

SIZE, TOGETHER, BATCHES = 640, 16, 60


@pytest.fixture(scope="module")
def model() -> Any:
    """A network of random weights that see something."""
    seal_off()
    from ultralytics import YOLO

    from tests.integration.staged_networks import _wake_up

    torch.manual_seed(1)
    made = YOLO("yolo11l-seg.yaml")
    _wake_up(made)
    return made


@pytest.fixture(scope="module")
def squares() -> list[Any]:
    import cv2

    coarse = np.random.default_rng(0).integers(0, 256, (TOGETHER, 8, 8, 3), dtype=np.uint8)
    return [cv2.resize(one, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for one in coarse]


def network(model: Any, device: str, *, half: bool, together: int) -> Network:
    limits: dict[str, Any] = {"confidence": 0.001, "iou": 0.5, "agnostic_nms": True, "max_objects": 12}
    return Network(model, device=device, half=half, size=SIZE, together=together, **limits)


def same(one: Found, other: Found) -> bool:
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.logits, other.logits)


def test_what_is_said_of_a_photo_does_not_depend_on_those_that_came_with_it(model: Any, squares: list[Any]) -> None:
    on_gpu = network(model, "cuda:0", half=True, together=TOGETHER)
    company = on_gpu.find(squares, [None] * TOGETHER)
    assert all(len(found.rows) for found in company)
    for number, square in enumerate(squares):
        assert same(on_gpu.find([square], [None])[0], on_gpu.find([square], [None])[0])
        assert same(on_gpu.find([square] * TOGETHER, [None] * TOGETHER)[number], company[number])
    turned = on_gpu.find(squares[::-1], [None] * TOGETHER)[::-1]
    assert all(same(*pair) for pair in zip(turned, company, strict=True)), "a photo's place in its batch matters"


def test_it_says_what_a_cpu_says(model: Any, squares: list[Any]) -> None:
    slow = network(model, "cpu", half=False, together=1).find(squares[:4], [None] * 4)
    quick = network(model, "cuda:0", half=False, together=TOGETHER).find(squares[:4], [None] * 4)
    for ours, theirs in zip(quick, slow, strict=True):
        best = theirs.rows[0]
        near = np.abs(ours.rows[:, :4] - best[:4]).max(1) + 100 * np.abs(ours.rows[:, 4] - best[4])
        assert near.min() < 2.0


def test_many_batches_take_no_more_memory_than_a_few(model: Any, squares: list[Any]) -> None:
    on_gpu = network(model, "cuda:0", half=True, together=TOGETHER)
    on_gpu.warm_up()
    torch.cuda.reset_peak_memory_stats()
    for number in range(BATCHES):
        on_gpu.find(squares, [None] * TOGETHER)
        if number == 5:
            early = torch.cuda.max_memory_allocated()
    assert torch.cuda.max_memory_allocated() <= 1.02 * early
