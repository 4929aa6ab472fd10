"""A weights file, checked before it is opened; opened without anything being downloaded, installed or run."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from stream_worker.models.protocol import ModelFault


def checked(path: Path, expected: str | None) -> str:
    """The sha256 of the weights. A name alone would make ultralytics download them: they must be there."""
    if not path.is_file():
        raise ModelFault("weights_missing", f"no weights at {path}: put a YOLO or YOLOE segmentation .pt there")
    if path.suffix != ".pt":
        raise ModelFault("weights_unusable", f"{path}: weights are a .pt file")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else ""
            if not sha256:  # Python 3.10
                sha256 = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise ModelFault("weights_unusable", f"{path}: {error.strerror}") from error
    if expected and sha256 != expected:
        raise ModelFault("weights_mismatch", f"{path} has sha256 {sha256}, but {expected} is asked for")
    return sha256


def seal_off() -> None:
    """What ultralytics must find in the environment when it is imported."""
    private = tempfile.mkdtemp(prefix="yolo-")
    os.environ.update(
        YOLO_OFFLINE="true",  # no DNS probe, no analytics
        YOLO_AUTOINSTALL="false",
        ULTRALYTICS_SAFE_LOAD="1",  # a .pt is a pickle: only known classes may be in it
        YOLO_CONFIG_DIR=private,
        MPLCONFIGDIR=private,
    )


def opened(path: Path, ultralytics: Any) -> Any:
    """ultralytics' model of a segmentation network. Raises ModelFault (`weights_unusable`)."""
    try:
        model = ultralytics.YOLO(str(path))
        head = model.model.model[-1]
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFault("weights_unusable", f"{path} can't be loaded: {first[:300]}") from error
    if model.task != "segment":
        raise ModelFault("weights_unusable", f"{path} is a {model.task} model: a segmentation model is needed")
    promptable = type(model).__name__ == "YOLOE" and not hasattr(head, "lrpc")
    if promptable and not hasattr(model.model, "pe") and not getattr(head, "is_fused", False):
        # It would predict with empty prompts, and say nothing.
        raise ModelFault(
            "weights_unusable", f"{path} is a YOLOE without class names: run set_classes once, online, and save it"
        )
    return model
