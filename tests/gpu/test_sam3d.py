"""SAM 3D Objects on a GPU: upstream's real modules with random weights, see `upstream.py` for what that needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_worker.errors import TransientFault
from stream_worker.models.keeper import YOUNG
from stream_worker.models.sam3d.speedups import TOLERANCE
from tests.gpu import one, upstream
from tests.gpu.forced import Forced

WHY = upstream.missing()

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900), pytest.mark.skipif(WHY is not None, reason=str(WHY))]

VOXELS = 10_000
BUDGET_MB = 16_000
"""Room for the model and its largest objects, and not for another one."""

Reconstruct = Callable[[], tuple[dict[str, Any], bytes]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Forced:
    made = Forced()
    info = made.load({"checkpoint": str(tmp_path_factory.mktemp("sam3d") / "hf"), "forced_voxels": VOXELS})
    made.warm_up()
    assert info["exact_savings"] is True
    return made


@pytest.fixture
def reconstruct(model: Forced, tmp_path: Path) -> Reconstruct:
    asked, payload = one.task(tmp_path, VOXELS)

    def done() -> tuple[dict[str, Any], bytes]:
        answer, body = model.infer(asked, model.prepare(asked, payload))
        return answer, body()

    return done


def test_the_exact_savings_are_exact(model: Forced) -> None:
    for stage in model._speedups._stages.values():
        assert stage.deviation is not None
        assert stage.deviation < TOLERANCE / 2


def test_the_same_object_twice_is_the_same(reconstruct: Reconstruct) -> None:
    (first, ply), (second, again) = reconstruct(), reconstruct()
    assert first["voxels"] == second["voxels"] == VOXELS
    size = 68 * first["gaussians"]
    ours, other = (np.frombuffer(data[-size:], "<f4") for data in (ply, again))
    np.testing.assert_allclose(ours, other, rtol=0.05, atol=0.05)


def test_ten_objects_take_no_more_memory_than_one(reconstruct: Reconstruct) -> None:
    import torch

    reconstruct()
    before = torch.cuda.memory_allocated()
    peaks = [reconstruct()[0]["peak_gpu_bytes"] for _ in range(10)]
    assert torch.cuda.memory_allocated() <= before * 1.01
    assert max(peaks) <= min(peaks) * 1.01


async def test_a_child_that_is_killed_in_stage_2_is_replaced(tmp_path: Path) -> None:
    async with one.host_of(tmp_path, VOXELS, {}) as host:
        found = await one.killed(host, tmp_path, VOXELS)
    assert "SIGKILL" in found["said"]
    assert found["generation"] == 2
    assert found["next_object_after_s"] <= found["loaded_in_s"] + 5


async def test_a_child_that_goes_beyond_its_gpu_memory_is_replaced(tmp_path: Path) -> None:
    asked, payload = one.task(tmp_path, VOXELS)
    async with one.host_of(tmp_path, VOXELS, {"gpu_memory_mb": BUDGET_MB}) as host:
        for _ in range(YOUNG):
            made = await host.infer(asked, payload)
            assert made.header["peak_gpu_bytes"] <= BUDGET_MB * 2**20
        with pytest.raises(TransientFault, match="cuda_oom"):
            await host.infer({**asked, "take_gb": 10}, payload)
        assert (await host.infer(asked, payload)).generation == 2
