"""What a model's process tells of its GPU's memory, by a real card.

`python3 -m pytest -v --noconftest -p no:cacheprovider tests/gpu/test_gpu_memory.py`
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
if not torch.cuda.is_available():
    pytest.skip("no CUDA GPU", allow_module_level=True)

from stream_worker.models.gpu_memory import HELD, LIMIT, held, keep_within  # noqa: E402  # after the skip

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]


def test_what_torch_takes_is_told_beside_what_it_may_take() -> None:
    keep_within(torch, 4096)
    torch.cuda.init()
    before = held()[HELD]
    taken = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
    assert held()[HELD] >= before + taken.numel()
    assert held()[LIMIT] == min(4096 * 2**20, torch.cuda.get_device_properties(0).total_memory)
