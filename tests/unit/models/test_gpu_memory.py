"""How much GPU memory a model may take. With a real card: tests/gpu/test_sam3d.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stream_worker.models import gpu_memory
from stream_worker.models.gpu_memory import HELD, LIMIT, held, keep_within

CARD = 16 * 2**30


class Cuda:
    """torch.cuda, as far as it is asked, of one card of 16 GiB."""

    def __init__(self, *, available: bool = True, initialized: bool = True) -> None:
        self.available = available
        self.initialized = initialized
        self.limits: list[tuple[float, int]] = []

    def is_available(self) -> bool:
        return self.available

    def is_initialized(self) -> bool:
        return self.initialized

    def memory_reserved(self, device: int) -> int:
        assert device == 0
        return 3 * 2**30

    def get_device_properties(self, device: int) -> SimpleNamespace:
        assert device == 0
        return SimpleNamespace(total_memory=CARD)

    def set_per_process_memory_fraction(self, fraction: float, device: int) -> None:
        self.limits.append((fraction, device))


@pytest.mark.parametrize(
    ("budget_mb", "available", "limits"),
    [
        (4096, True, [(0.25, 0)]),
        (None, True, []),
        (4096, False, []),
        (16 * 1024, True, []),
        (99_999, True, []),
    ],
)
def test_the_budget_is_a_share_of_the_card(
    budget_mb: int | None, available: bool, limits: list[tuple[float, int]]
) -> None:
    cuda = Cuda(available=available)
    keep_within(SimpleNamespace(cuda=cuda), budget_mb)
    assert cuda.limits == limits


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process of its own, as far as `held` goes."""
    monkeypatch.setattr(gpu_memory, "_torch", None)
    monkeypatch.setattr(gpu_memory, "_budget", None)


@pytest.mark.parametrize(("budget_mb", "limit"), [(4096, 4 * 2**30), (None, CARD), (99_999, CARD)])
def test_what_is_held_of_the_card_is_told_with_its_limit(budget_mb: int | None, limit: int) -> None:
    assert held() == {}
    keep_within(SimpleNamespace(cuda=Cuda()), budget_mb)
    assert held() == {HELD: 3 * 2**30, LIMIT: limit}


@pytest.mark.parametrize("cuda", [Cuda(available=False), Cuda(initialized=False)])
def test_a_model_that_uses_no_gpu_tells_of_none(cuda: Cuda) -> None:
    keep_within(SimpleNamespace(cuda=cuda), None)
    assert held() == {}


def test_a_torch_that_fails_at_it_costs_no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda()
    keep_within(SimpleNamespace(cuda=cuda), None)

    def failing(device: int) -> int:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(cuda, "memory_reserved", failing)
    assert held() == {}
