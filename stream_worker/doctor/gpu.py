"""The GPU, as the model's own interpreter sees it: driver, card, memory, and a kernel that runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_worker.doctor import child
from stream_worker.doctor.check import Finding, Part, failed, not_checked, ok, warning
from stream_worker.inference import NVIDIA
from stream_worker.settings import SAM3D, Settings
from stream_worker.up import SAM3D_MB, SAM3D_MESH_MB

LIMIT_S = 30.0
WITHOUT = frozenset({"silhouette"})
"""Models that use no GPU."""


async def gpu(settings: Settings, part: Part) -> list[Finding]:
    """Whether this part's model has the GPU that its settings want."""
    section = settings.detector if part is Part.DETECTOR else settings.reconstructor
    kind = section.device.partition(":")[0]
    if kind == "cpu":
        return [not_checked("gpu", f"{part}: {part}.device is cpu")]
    if kind == "auto" and section.model in WITHOUT:
        return [not_checked("gpu", f"{part}: {section.model} works without one")]
    driver = _driver()
    if driver is None:
        facts: dict[str, Any] = {"fault": "no NVIDIA driver here"}
    else:
        program = Path(__file__).with_name("card.py").read_text(encoding="utf-8")
        facts = {"driver": driver, **await child.answer(section, program, (), LIMIT_S)}
    return [judged(part, kind, section.model, _needed_mb(settings, part), facts)]


def judged(part: Part, kind: str, model: str, needed_mb: int, facts: Mapping[str, Any]) -> Finding:
    """What is to be thought of what `card.py` found. `kind` is that of the device: auto or cuda."""
    seen = ", ".join(
        f"{label}{facts[name]}{unit}"
        for name, label, unit in (
            ("name", "", ""),
            ("free_mb", "", " MB free"),
            ("total_mb", "of ", " MB"),
            ("driver", "driver ", ""),
            ("torch", "torch ", ""),
            ("cuda", "CUDA ", ""),
        )
        if name in facts
    )
    if fault := facts.get("fault"):
        seen = f"{part}: {fault}{f' ({seen})' if seen else ''}"
        if kind == "cuda" or model == SAM3D or "name" in facts:
            return failed("gpu", seen, f"`nvidia-smi` must list the card, and {part}.python have a torch of its CUDA")
        return warning(
            "gpu", seen, f"it works on the CPU, slower; if there is a GPU, see to its driver; or {part}.device"
        )
    if facts.get("total_mb", 0) < needed_mb:
        return failed("gpu", f"{part}: {seen}; {model} needs {needed_mb} MB", "a larger card, or sam3d.mesh off")
    if facts.get("free_mb", 0) < needed_mb:
        do = "nothing, if that is the service itself; else see who has it: `nvidia-smi`"
        return warning("gpu", f"{part}: {seen}; {model} needs {needed_mb} MB", do)
    return ok("gpu", f"{part}: a kernel runs; {seen}")


def _needed_mb(settings: Settings, part: Part) -> int:
    if part is not Part.RECONSTRUCTOR or settings.reconstructor.model != SAM3D:
        return 0
    return SAM3D_MESH_MB if settings.sam3d.mesh else SAM3D_MB


def _driver() -> str | None:
    """The version of NVIDIA's kernel module; None where it is not loaded."""
    try:
        said = NVIDIA.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module\D*([\d.]+)", said)
    return found[1] if found else "of an unknown version"
