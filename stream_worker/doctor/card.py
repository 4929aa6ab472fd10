"""One small kernel on the GPU, by torch: a program of its own for a model's interpreter, which may be another one.

It is started as text (`gpu.py`), needs Python 3.10 and torch, and prints one line of JSON.
"""

import json
from typing import Any

SIDE = 512
"""Of the matrices, whose product is known."""


def examine() -> dict[str, Any]:
    """What torch sees and computes; `fault` where it can't."""
    try:
        import torch
    except Exception as error:  # noqa: BLE001  # whatever a broken installation raises
        return {"fault": f"torch can't be imported: {type(error).__name__}: {error}"[:300]}
    seen: dict[str, Any] = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    try:
        if not torch.cuda.is_available():
            return {**seen, "fault": "torch sees no GPU"}
        seen["name"] = torch.cuda.get_device_name(0)
        free, total = torch.cuda.mem_get_info(0)
        seen.update(free_mb=free // 2**20, total_mb=total // 2**20)
        twos = torch.full((SIDE, SIDE), 2.0, device="cuda:0")
        if int((twos @ twos).to(torch.float64).sum().item()) != 4 * SIDE**3:
            seen["fault"] = "a product of matrices comes out wrong"
    except Exception as error:  # noqa: BLE001  # ... or a driver
        seen["fault"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return seen


if __name__ == "__main__":
    print(json.dumps(examine()))
