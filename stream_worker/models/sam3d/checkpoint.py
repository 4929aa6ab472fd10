"""The folder of upstream's configuration and weights: which files will be read, and whether they are the pinned ones.

Upstream opens its checkpoints as pickles (`weights_only=False`): whoever can change such a file runs code here. So
every file that the pipeline reads, configurations too, must stand in a list of sha256 sums that is kept elsewhere, and
is checked before the first of them is opened by anybody else.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from stream_worker.models.protocol import ModelFault

PIPELINE = "pipeline.yaml"
_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_CHUNK = 1 << 20


def pins(path: Path) -> dict[str, str]:
    """The sums of a file as `sha256sum` writes it: path relative to the checkpoint's folder -> sha256.

    Raises ModelFault "weights_missing" or "bad_options".
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFault("weights_missing", f"sam3d.sha256sums: {path} can't be read: {error}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
        match = _SUM.fullmatch(line)
        if match is None:
            raise ModelFault("bad_options", f"sam3d.sha256sums: line {number} of {path} is not as sha256sum writes it")
        found[match[2].removeprefix("./")] = match[1]
    return found


def files(config: dict[str, Any]) -> list[str]:
    """The files that the pipeline of this configuration reads, relative to its folder.

    Raises ModelFault "weights_refused" for one that lies outside of it.
    """
    names = {PIPELINE}
    for key, value in config.items():
        if key.endswith(("_config_path", "_ckpt_path")) and value is not None:
            if not isinstance(value, str) or Path(value).is_absolute() or ".." in Path(value).parts:
                raise ModelFault("weights_refused", f"{PIPELINE}: {key} must be a path in the folder, not {value!r}")
            names.add(value.removeprefix("./"))
    return sorted(names)


def verify(folder: Path, names: list[str], pinned: dict[str, str]) -> str:
    """The sum of all the sums, where each file is there with its pinned one.

    Raises ModelFault: "weights_missing" where a file is not there, "weights_unpinned" where no sum of it is known,
    "weights_mismatch" where it has another.
    """
    whole = hashlib.sha256()
    for name in names:
        if name not in pinned:
            raise ModelFault("weights_unpinned", f"sam3d.sha256sums has no line for {name}, which the pipeline reads")
        found = _sha256(folder / name)
        if found != pinned[name]:
            raise ModelFault("weights_mismatch", f"{name} has sha256 {found}, but {pinned[name]} is pinned")
        whole.update(f"{found}  {name}\n".encode())
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ModelFault("weights_missing", f"{path} can't be read: {error.strerror or error}") from error
    return digest.hexdigest()
