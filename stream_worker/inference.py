"""A stage's model: its child process as the settings describe it, and its name as events tell it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stream_worker.errors import Reason
from stream_worker.events import Model
from stream_worker.models.answer import clean
from stream_worker.models.environment import compute_limits
from stream_worker.models.host import ModelHost
from stream_worker.settings import Detector, ModelProcess

_OURS = {"catalogue", "points", "python", "load_timeout_s", "task_timeout_s", "memory_limit_mb", "batch_wait_ms"}
"""What is the host's business; all other settings of the section are the model's options."""

BATCH = 16
"""Photos that a detector's model is given at once on a GPU. On an H200 a forward pass of 16 does 13 times what one of a
single photo does, and one of 64 a seventh more than one of 16 does (measured with yoloe-11l-seg, random weights)."""
NVIDIA = Path("/proc/driver/nvidia/version")


def host(
    name: str,
    model: str,
    section: ModelProcess,
    fault_reason: Reason,
    *,
    options: Mapping[str, Any] | None = None,
    reasons: Mapping[str, Reason] | None = None,
) -> ModelHost:
    """The host of the model class `model` (`module:Class`), not started yet. `options` win over the section's."""
    limit = section.memory_limit_mb
    return ModelHost(
        name=name,
        model=model,
        options={**section.model_dump(mode="json", exclude=_OURS), **(options or {})},
        python=section.python,
        env=compute_limits(threads=section.threads, device=section.device),
        load_timeout_s=section.load_timeout_s,
        task_timeout_s=section.task_timeout_s,
        rss_limit_bytes=None if limit is None else limit * 2**20,
        fault_reason=fault_reason,
        reasons=reasons or {},
    )


def batch(section: Detector) -> int:
    """How many photos the detector's model is given at once."""
    if section.batch is not None:
        return section.batch
    kind = section.device.partition(":")[0]
    gpu = kind == "cuda" or (kind == "auto" and NVIDIA.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != "")
    return BATCH if gpu else 1


def device_of(section: ModelProcess, environ: Mapping[str, str] = os.environ) -> str:
    """Where the model works, as far as the worker was told: `cpu`, or a GPU by the UUID or number that it was given."""
    kind, _, which = section.device.partition(":")
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if kind == "cpu" or which or visible is None:
        return section.device[:128]
    return f"cuda:{visible}"[:128] if visible else "cpu"


def model_of(host: ModelHost) -> Model:
    """Which model it is, as it said when it was loaded."""
    info = host.info
    sha256 = info.get("weights_sha256")
    return Model(
        name=clean(info.get("model", "")),
        version=clean(info.get("version", "")),
        weights_sha256=None if sha256 is None else clean(sha256),
    )


def longest_s(section: ModelProcess, window: int) -> float:
    """How long a record may wait for the model and be in it: all others first, twice each, and a new model."""
    return 2 * window * section.task_timeout_s + section.load_timeout_s
