"""What the settings section `sam3d` says, as the child gets it: plain JSON, checked again here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from stream_worker.models.protocol import ModelFault


@dataclass(frozen=True)
class Options:
    """See `settings.Sam3d`, where each is described."""

    checkpoint: str
    sha256sums: str
    device: str = "auto"
    threads: int = 4
    gpu_memory_mb: int | None = None
    seed: int = 42
    stage1_steps: int = 15
    stage2_steps: int = 8
    mesh: bool = False
    mesh_postprocess: bool = False
    texture_baking: bool = False
    layout_postprocess: bool = False
    pointmap: str = "pinhole"
    exact_savings: bool = True
    cuda_graphs: bool = True
    step_cache: int = 0
    compile: bool = True
    warm_up_runs: int = 3

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """Raises ModelFault "bad_options" where something is missing or can't be."""
        known = {field.name for field in fields(cls)}
        for name in ("checkpoint", "sha256sums"):
            if not given.get(name):
                raise ModelFault("bad_options", f"sam3d.{name} must be set: see the README, SAM 3D Objects")
        options = cls(**{name: value for name, value in given.items() if name in known})
        if options.pointmap not in ("pinhole", "moge"):
            raise ModelFault("bad_options", f"sam3d.pointmap is pinhole or moge, not {options.pointmap!r}")
        if min(options.stage1_steps, options.stage2_steps) < 1:
            raise ModelFault("bad_options", "sam3d: a stage has at least one step")
        return options

    @property
    def formats(self) -> list[str]:
        """Upstream's `decode_formats`. Where there is a mesh it makes a GLB unasked, and needs the Gaussians for it."""
        return ["gaussian", "mesh"] if self.mesh else ["gaussian"]
