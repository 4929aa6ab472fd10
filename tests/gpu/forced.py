"""The adapter of SAM 3D Objects with upstream's real modules, random weights, and as many voxels as a task names."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from stream_worker.models.sam3d.adapter import Sam3d
from tests.gpu import upstream


class Forced(Sam3d):
    """Options besides the adapter's: `folder` for the checkpoint, `forced_voxels` to warm up with.

    A task names its `voxels`. With `upstream_ply` the answer has the seconds that upstream's own writer takes, and with
    `stage2_begins` that file is made when stage 2 begins. With `in_turn` everything is done in the GPU's turn.
    """

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        own = ("folder", "forced_voxels")
        rest = {name: value for name, value in options.items() if name not in own}
        info = super().load(upstream.prepared(Path(options["folder"]) / "hf", **rest))
        self._force(options["forced_voxels"])
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
        if task["voxels"] != self._voxels:
            self._force(task["voxels"])
        self._begins = task.get("stage2_begins")
        answer, body = super().infer(task, super().prepare(task, ready) if task.get("in_turn") else ready)
        if task.get("in_turn"):
            body = body()
        if task.get("upstream_ply"):
            answer["upstream_ply_s"] = self._upstream_ply()
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
