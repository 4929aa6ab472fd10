"""The adapter of SAM 3D Objects with upstream's real modules, random weights, and as many voxels as a task names."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from stream_worker.models.sam3d.adapter import Sam3d
from tests.gpu import upstream

VOXELS = 20_000
"""Where nobody names another number."""


class Forced(Sam3d):
    """Makes the checkpoint that its option names. An option besides the adapter's: `forced_voxels` to warm up with.

    A task names its `voxels`. With `upstream_ply` the answer has the seconds that upstream's own writer takes, and with
    `stage2_begins` that file is made when stage 2 begins. With `in_turn` everything is done in the GPU's turn, and with
    `take_gb` so much of the GPU's memory is asked for first. The answer has the `span` of the work, and a line of the
    log says `worked <from> <to> <seconds of the model's own phases>`, both of the wall clock.
    """

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        rest = {name: value for name, value in options.items() if name not in ("checkpoint", "sha256sums")}
        voxels = int(rest.pop("forced_voxels", VOXELS))
        info = super().load(upstream.prepared(Path(options["checkpoint"]), **rest))
        self._force(voxels)
        self._begins: str | None = None
        stage2 = self._pipeline.sample_slat

        def told(*args: Any, **kwargs: Any) -> Any:
            if self._begins:
                Path(self._begins).touch()
            return stage2(*args, **kwargs)

        self._pipeline.sample_slat = told
        return info

    def prepare(self, task: dict[str, Any], payload: bytes) -> Any:
        return payload if task.get("in_turn") else super().prepare(task, payload)

    def infer(self, task: dict[str, Any], ready: Any) -> tuple[dict[str, Any], Any]:
        began = time.time()
        if (voxels := task.get("voxels", self._voxels)) != self._voxels:
            self._force(voxels)
        if "take_gb" in task:
            self._torch.empty(int(task["take_gb"] * 1e9), dtype=self._torch.uint8, device="cuda")
        self._begins = task.get("stage2_begins")
        answer, body = super().infer(task, super().prepare(task, ready) if task.get("in_turn") else ready)
        if task.get("in_turn"):
            body = body()
        if task.get("upstream_ply"):
            answer["upstream_ply_s"] = self._upstream_ply()
        own = sum(seconds for phase, seconds in answer["times"].items() if phase != "ahead_s")
        answer["span"] = began, time.time()
        print("worked {:.6f} {:.6f} {:.6f}".format(*answer["span"], own), flush=True)
        return answer, body

    def _table(self, found: Any) -> Any:
        self._found = found
        return super()._table(found)

    def _force(self, voxels: int) -> None:
        upstream.force_voxels(self._pipeline, voxels)
        self._voxels = voxels

    def _upstream_ply(self) -> float:
        with tempfile.NamedTemporaryFile(suffix=".ply") as file:
            start = time.perf_counter()
            self._found.save_ply(file.name)
            return time.perf_counter() - start
