"""A reconstructor's model that only takes its time, and says when it worked: for benchmarks of what lies between."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from stream_worker.geometry import gaussians

SECONDS = 0.5


class Slow:
    """`max_gaussians` Gaussians, in `SECONDS` an object. Prints `worked <from> <to>`, of the monotonic clock."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        count = int(options["max_gaussians"])
        numbers = np.random.default_rng(0)
        self._ply = gaussians.to_ply(
            gaussians.Gaussians(
                positions=numbers.normal(size=(count, 3)).astype(np.float32),
                sh_dc=np.zeros((count, 3), np.float32),
                opacities=np.ones(count, np.float32),
                scales=np.zeros((count, 3), np.float32),
                rotations=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
            )
        )
        self._header = {
            "gaussians": count,
            "frame": "none",
            "unit": "none",
            "oriented_box": {
                "center": [0.0, 0.0, 0.0],
                "rotation": np.eye(3).tolist(),
                **dict.fromkeys(("width", "height", "depth"), 1.0),
            },
            "volume": 1.0,
            "volume_method": "none",
            "pose": {"rotation": [1.0, 0.0, 0.0, 0.0], "translation": [0.0, 0.0, 0.0], "scale": 1.0},
        }
        return {"model": "slow", "version": "1", "weights_sha256": None}

    def warm_up(self) -> None: ...

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        began = time.monotonic()
        np.memmap(task["pixels"], np.uint8, "r", shape=(task["height"], task["width"], 3)).max()
        time.sleep(max(0.0, SECONDS - (time.monotonic() - began)))
        print(f"worked {began:.6f} {time.monotonic():.6f}", flush=True)
        return self._header, self._ply
