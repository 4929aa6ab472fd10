"""What is kept of a run: the PLY files and the completed events."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from stream_worker.contract import encode
from stream_worker.demo.record import RunRecord
from stream_worker.events import BlobRef

LONGEST_PART = 60


def file_name(image_id: str, index: int, label: str, taken: set[str]) -> str:
    """`<image>-<index>-<label>.ply`, with whatever is no letter, digit, dot or dash replaced.

    Names come from outside: the result holds no separator, starts with no dot and differs from all that are `taken`,
    also where capitals make no difference. It is added to `taken`.
    """
    stem = f"{_plain(image_id)}-{index}-{_plain(label)}"
    name, number = f"{stem}.ply", 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}~{number}.ply"
    taken.add(name.lower())
    return name


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("._-")[:LONGEST_PART] or "x"


async def save_plys(folder: Path, record: RunRecord, get: Callable[[BlobRef], Awaitable[bytes]]) -> None:
    """Fetch the PLY of every completed object with `get`, which checks its sha256, and name them in `record.plys`."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for image_id in record.photos:
        done = record.completed.get(image_id)
        for item in done.objects if done else []:
            if item.ply is None:
                continue
            path = folder / file_name(image_id, item.index, item.label, taken)
            write_whole(path, await get(item.ply))
            record.plys[item.object_id] = path


def save_completed(path: Path, record: RunRecord) -> None:
    """Write the completed events as JSON lines, in the order of publishing."""
    lines = [encode(record.completed[image_id]) for image_id in record.photos if image_id in record.completed]
    write_whole(path, b"".join(line + b"\n" for line in lines))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is never seen half-written under its name."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(data)
    os.replace(draft, path)
