"""How much of its GPU's memory a model's process may take, and takes. Runs in that process, under its interpreter."""

from __future__ import annotations

import contextlib
from typing import Any

HELD, LIMIT = "held_bytes", "limit_bytes"
"""What `held` calls them."""

_torch: Any = None
_budget: int | None = None


def keep_within(torch: Any, budget_mb: int | None) -> None:
    """Have torch's allocator refuse what is beyond the budget (MiB, CUDA's context aside), its caches given back first.

    What does not fit raises torch's OutOfMemoryError, which the host hears of as `cuda_oom`. No budget, no GPU, or a
    budget above what the card has change nothing. The process must see its card as number 0.
    """
    global _torch, _budget
    if not torch.cuda.is_available():
        return
    _torch, _budget = torch, None if budget_mb is None else budget_mb * 2**20
    if _budget is None:
        return
    share = _budget / torch.cuda.get_device_properties(0).total_memory
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share, 0)


def held() -> dict[str, int]:
    """Bytes that torch holds of the card, its caches included, and that it may hold; nothing where it uses none.

    Known of models that have called `keep_within`.
    """
    with contextlib.suppress(Exception):  # whatever torch says to it: a figure is worth no heartbeat
        if _torch is not None and _torch.cuda.is_initialized():
            card = int(_torch.cuda.get_device_properties(0).total_memory)
            limit = card if _budget is None else min(card, _budget)
            return {HELD: int(_torch.cuda.memory_reserved(0)), LIMIT: limit}
    return {}
