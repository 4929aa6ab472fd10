"""The interpreters of the models: whether they start, are new enough, and have what their model imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_worker.doctor import child
from stream_worker.doctor.check import Finding, Part, failed, ok
from stream_worker.settings import SAM3D, Settings

LIMIT_S = 30.0
OLDEST = (3, 10)
NEEDS = {
    "yolo": ("numpy", "torch", "ultralytics", "cv2"),
    "silhouette": ("numpy",),
    SAM3D: ("numpy", "torch", "omegaconf", "spconv", "sam3d_objects"),
}
"""What each model imports; of a model of one's own, its module."""

PROGRAM = """
import json, sys
from importlib import metadata, util
sys.path[:] = [entry for entry in sys.path if entry]
owners = metadata.packages_distributions()
def version(name):
    if util.find_spec(name) is None:
        return None
    owner = (owners.get(name) or [None])[0]
    return metadata.version(owner) if owner else "?"
print(json.dumps({"python": sys.version.split()[0], "modules": {name: version(name) for name in sys.argv[1:]}}))
"""
"""Looks modules up and imports none: that takes seconds of them, and the GPU's check does it."""


async def interpreter(settings: Settings, part: Part) -> list[Finding]:
    """Whether this part's model could be imported."""
    section = settings.detector if part is Part.DETECTOR else settings.reconstructor
    needs = NEEDS.get(section.model, (section.model.partition(":")[0].partition(".")[0],))
    try:
        facts = await child.answer(section, PROGRAM, needs, LIMIT_S)
    except OSError as error:
        facts = {"fault": str(error.strerror)}
    return [judged(part, section.python or "our own interpreter", facts)]


def judged(part: Part, python: str, facts: Mapping[str, Any]) -> Finding:
    """What is to be thought of what PROGRAM printed."""
    setting = f"{part}.python"
    if fault := facts.get("fault"):
        return failed("python", f"{part}: {python} does not start: {fault}", f"name a Python with {setting}")
    version = str(facts["python"])
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST:
        seen = f"{part}: {python} is Python {version}"
        return failed("python", seen, f"name one of {OLDEST[0]}.{OLDEST[1]} or later with {setting}")
    modules: Mapping[str, str | None] = facts["modules"]
    if lacking := [name for name, found in modules.items() if found is None]:
        seen = f"{part}: {python} (Python {version}) has no {', '.join(lacking)}"
        return failed("python", seen, f"install them there, or name the interpreter that has them with {setting}")
    listed = ", ".join(f"{name} {found}" for name, found in modules.items())
    return ok("python", f"{part}: {python}, Python {version}, {listed}")
