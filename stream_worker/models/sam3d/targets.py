"""What a Hydra configuration may instantiate: an allow-list, checked in every file before anything is made of it.

Hydra's `instantiate` calls whatever a `_target_` names, with the arguments beside it: a configuration is code. Upstream
checks `pipeline.yaml` in its notebook module only, and by the first part of the name; but `torch.os.system` begins
with `torch` too, and the files that `pipeline.yaml` names are instantiated unchecked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stream_worker.models.protocol import ModelFault

ALLOWED = (
    "sam3d_objects.config.utils.make_dict",
    "sam3d_objects.data.",
    "sam3d_objects.model.",
    "sam3d_objects.pipeline.",
    "torch.nn.",
    "torchvision.transforms.",
    "moge.model.",
)
"""Names, and beginnings of names (with a dot at the end). None of these hands out a function that starts a process or
opens a path it is given, but for the loaders of weights, and those open what the pins name (see `checkpoint`)."""


def check(config: Any, where: str) -> None:
    """Raise ModelFault "weights_refused" for a configuration (plain dicts and lists) that names anything else."""
    for target in _targets(config):
        if not isinstance(target, str):
            raise ModelFault("weights_refused", f"{where}: a _target_ that is no text")
        parts = target.split(".")
        plain = all(part.isidentifier() and not part.startswith("_") for part in parts)
        if not plain or not any(target.startswith(one) if one.endswith(".") else target == one for one in ALLOWED):
            raise ModelFault("weights_refused", f"{where}: _target_ {target[:100]!r} is not allowed")
        if len({"os", "sys", "subprocess", "builtins", "importlib", "shutil", "hub"} & set(parts)):
            raise ModelFault("weights_refused", f"{where}: _target_ {target[:100]!r} goes through another module")


def _targets(node: Any) -> Iterator[Any]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield value
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)
