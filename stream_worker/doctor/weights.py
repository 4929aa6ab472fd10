"""The models' weights: whether they are there, and the ones that are meant."""

from __future__ import annotations

import json
import re
from pathlib import Path

from stream_worker.detector import OURS
from stream_worker.detector import weights as weights_of
from stream_worker.doctor.check import Finding, Part, failed, not_checked, ok, warning
from stream_worker.models.protocol import ModelFault
from stream_worker.models.sam3d import checkpoint
from stream_worker.models.yolo.weights import checked
from stream_worker.settings import SAM3D, Detector, Sam3d, Settings
from stream_worker.store.threads import Threads

_PATH = re.compile(r"^(\w+_(?:config|ckpt)_path)\s*:\s*['\"]?([^'\"#\s]+)", re.MULTILINE)
"""The files that upstream's pipeline.yaml names, which is flat; the service's own interpreter has no YAML."""

ADVICE = {
    "weights_missing": "put them there, or mend the setting",
    "weights_mismatch": "get the right file; if this one is meant, pin it anew",
    "weights_unpinned": "sha256sum it, and add that line (README, SAM 3D Objects)",
}


async def weights(settings: Settings, part: Part, threads: Threads) -> list[Finding]:
    """Whether this part's weights are what its settings say. Large ones are read to their end: that takes a while."""
    section = settings.detector if part is Part.DETECTOR else settings.reconstructor
    try:
        if part is Part.DETECTOR and section.model == "yolo":
            return [await threads.run(_yolo, settings.detector)]
        if part is Part.RECONSTRUCTOR and section.model == SAM3D:
            return [await threads.run(_sam3d, settings.sam3d)]
    except ModelFault as fault:
        return [
            failed("weights", f"{part}: {fault.message}", ADVICE.get(fault.code, f"settings of {part}, or the file"))
        ]
    if section.model == "silhouette":
        return [ok("weights", f"{part}: {section.model} has none")]
    return [not_checked("weights", f"{part}: {section.model} is a model of your own")]


def _yolo(section: Detector) -> Finding:
    path = Path(weights_of(section))
    pinned = section.weights_sha256 or (_ours(path) if section.weights == OURS else None)
    found = checked(path, pinned)
    if pinned is None:
        seen = f"detector: {path} is not pinned: whoever can write to it can change what is found"
        return warning("weights", seen, f'detector.weights_sha256 = "{found}"')
    return ok("weights", f"detector: {section.weights}, sha256 {found[:12]}... as pinned")


def _ours(path: Path) -> str:
    """What was noted of our own weights when they were made."""
    return str(json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"])


def _sam3d(section: Sam3d) -> Finding:
    if not section.checkpoint or not section.sha256sums:
        lacking = "sam3d.checkpoint" if not section.checkpoint else "sam3d.sha256sums"
        return failed("weights", f"reconstructor: {lacking} is not set", "README, SAM 3D Objects")
    folder = Path(section.checkpoint)
    try:
        text = (folder / checkpoint.PIPELINE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFault("weights_missing", f"{folder / checkpoint.PIPELINE} can't be read: {error}") from error
    named = {key: name for key, name in _PATH.findall(text) if name not in ("null", "~")}
    names = checkpoint.files(named)
    checkpoint.verify(folder, names, checkpoint.pins(Path(section.sha256sums)))
    return ok("weights", f"reconstructor: {len(names)} files in {folder} as pinned")
