"""How much of its GPU's memory a model's process may take. Runs in that process, under its interpreter."""

from __future__ import annotations

from typing import Any


def keep_within(torch: Any, budget_mb: int | None) -> None:
    """Have torch's allocator refuse what is beyond the budget (MiB, CUDA's context aside), its caches given back first.

    What does not fit raises torch's OutOfMemoryError, which the host hears of as `cuda_oom`. No budget, no GPU, or a
    budget above what the card has change nothing. The process must see its card as number 0.
    """
    if budget_mb is None or not torch.cuda.is_available():
        return
    share = budget_mb * 2**20 / torch.cuda.get_device_properties(0).total_memory
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(share, 0)
