"""Answers that a child has left in a folder: read if they are what was said, and nothing else is opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from stream_worker.models.bodies import Body
from stream_worker.models.protocol import ProtocolError


def named(name: Any = "7", size: Any = 5) -> dict[str, Any]:
    return {"body_file": name, "body_bytes": size}


async def test_a_body_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "7").write_bytes(b"12345")
    body = Body.of(named(), b"", str(tmp_path))
    assert list(tmp_path.iterdir()) == [], "it stays behind"
    assert await body.read() == b"12345"
    body.close()


async def test_a_body_that_came_along(tmp_path: Path) -> None:
    assert await Body.of({}, b"along", str(tmp_path)).read() == b"along"


@pytest.mark.parametrize(
    "said",
    [
        *(named("../7"), named("/etc/passwd"), named(""), named("7\n"), named(7), named("seven")),
        *(named(size=4), named(size=6), named(size=-1), named(size="5"), named(size=True), named("8")),
    ],
)
def test_what_can_be_no_body(said: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "7").write_bytes(b"12345")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ProtocolError):
        Body.of(said, b"", str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_plain_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"12345")
    match kind:
        case "link":
            (tmp_path / "7").symlink_to(tmp_path / "secret")
        case "fifo":
            os.mkfifo(tmp_path / "7")
        case _:
            (tmp_path / "7").mkdir()
    with pytest.raises(ProtocolError):
        Body.of(named(), b"", str(tmp_path))


async def test_a_file_that_is_cut_short_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "7").write_bytes(b"12345")
    held = os.open(tmp_path / "7", os.O_WRONLY)
    body = Body.of(named(), b"", str(tmp_path))
    os.truncate(held, 2)
    os.close(held)
    with pytest.raises(ProtocolError, match="cut short"):
        await body.read()
