"""How much GPU memory a model may take. With a real card: tests/gpu/test_sam3d.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stream_worker.models.gpu_memory import keep_within

CARD = 16 * 2**30


class Cuda:
    """torch.cuda, as far as it is asked, of one card of 16 GiB."""

    def __init__(self, *, available: bool = True) -> None:
        self.available = available
        self.limits: list[tuple[float, int]] = []

    def is_available(self) -> bool:
        return self.available

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
