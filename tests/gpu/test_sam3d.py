"""SAM 3D Objects on a GPU: upstream's real modules with random weights, see `upstream.py` for what that needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_worker.models.sam3d.adapter import Sam3d
from stream_worker.models.sam3d.speedups import TOLERANCE
from tests.gpu import upstream
from tests.gpu.one import loaded, task

WHY = upstream.missing()

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900), pytest.mark.skipif(WHY is not None, reason=str(WHY))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Sam3d:
    made, info = loaded(tmp_path_factory.mktemp("sam3d"), 10_000, {})
    assert info["exact_savings"] is True
    return made


def test_the_exact_savings_are_exact(model: Sam3d) -> None:
    for stage in model._speedups._stages.values():
        assert stage.deviation is not None
        assert stage.deviation < TOLERANCE / 2


def test_the_same_object_twice_is_the_same(model: Sam3d, tmp_path: Path) -> None:
    asked = task(tmp_path)
    (first, ply), (second, again) = model.infer(*asked), model.infer(*asked)
    assert first["voxels"] == second["voxels"] == 10_000
    one, other = (np.frombuffer(data[-68 * first["gaussians"] :], "<f4") for data in (ply, again))
    np.testing.assert_allclose(one, other, rtol=0.05, atol=0.05)


def test_ten_objects_take_no_more_memory_than_one(model: Sam3d, tmp_path: Path) -> None:
    import torch

    asked = task(tmp_path)
    model.infer(*asked)
    before = torch.cuda.memory_allocated()
    peaks = [model.infer(*asked)[0]["peak_gpu_bytes"] for _ in range(10)]
    assert torch.cuda.memory_allocated() <= before * 1.01
    assert max(peaks) <= min(peaks) * 1.01
