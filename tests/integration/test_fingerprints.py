"""Finished results on a folder and on a real S3 server: found again while they are what was kept, and only then."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from stream_worker import fingerprints
from stream_worker.events import Geometry, OrientedBox, Pose
from stream_worker.store import DirectoryStore, Store
from tests.integration.test_store import s3_store

OF = fingerprints.fingerprint("photo", "mask")
OTHER = fingerprints.fingerprint("photo", "other mask")
PLY = b"ply\n" + bytes(1000)
GEOMETRY = Geometry(
    gaussians=3,
    frame="pixels",
    unit="px",
    oriented_box=OrientedBox(center=(0.0, 0.5, 1.25), rotation=np.eye(3).tolist(), width=1.5, height=2.0, depth=1 / 3),
    volume=1.1,
    volume_method="box",
    pose=Pose(rotation=(1.0, 0.0, 0.0, 0.0), translation=(0.0, 0.0, 0.0), scale=1.0),
)


@pytest.fixture(params=["directory", "s3"])
def closed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, Path]:
    if request.param == "directory":
        return DirectoryStore(tmp_path), tmp_path
    server, bucket = request.getfixturevalue("s3"), request.getfixturevalue("bucket")
    return s3_store(server, bucket), server.data / bucket


@pytest.fixture
async def place(closed: tuple[Store, Path]) -> AsyncIterator[tuple[Store, Path]]:
    """A store, and the folder where its disk has the blobs."""
    async with closed[0]:
        yield closed


async def test_what_was_kept_is_found_and_has_its_sha256(place: tuple[Store, Path]) -> None:
    store, _ = place
    assert await fingerprints.find(store, OF) is None
    kept = await fingerprints.keep(store, OF, PLY, GEOMETRY)
    assert await fingerprints.find(store, OF) == kept
    assert kept.geometry == GEOMETRY
    assert await store.get(kept.ply) == PLY


def other_number(note: bytes) -> bytes:
    assert note.count(b'"volume":1.1') == 1
    return note.replace(b'"volume":1.1', b'"volume":1.2')


def empty(_: bytes) -> bytes:
    return b""


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def huge(data: bytes) -> bytes:
    return data + b" " * (17 * 2**20)


def other_byte(data: bytes) -> bytes:
    return b"P" + data[1:]


NOTES = [empty, cut, huge, other_number]
PLYS = [empty, cut, other_byte]


@pytest.mark.parametrize(
    ("name", "spoil"), [("result.json", each) for each in NOTES] + [("*.ply", each) for each in PLYS]
)
async def test_what_is_not_what_was_kept_is_not_found_and_keeping_it_again_mends_it(
    place: tuple[Store, Path], name: str, spoil: Callable[[bytes], bytes]
) -> None:
    """Wrong on the disk itself: an S3 server goes on to give the digest that it noted when it wrote."""
    store, folder = place
    kept = await fingerprints.keep(store, OF, PLY, GEOMETRY)
    (path,) = (folder / "reconstructions" / OF).glob(name)
    path.write_bytes(spoil(path.read_bytes()))
    assert await fingerprints.find(store, OF) is None
    assert await fingerprints.keep(store, OF, PLY, GEOMETRY) == kept
    assert await fingerprints.find(store, OF) == kept


async def test_a_note_of_another_fingerprint_is_not_found(place: tuple[Store, Path]) -> None:
    """Whole, and true of its own fingerprint; but here it would say that other work has this result."""
    store, folder = place
    await fingerprints.keep(store, OF, PLY, GEOMETRY)
    note = (folder / "reconstructions" / OF / "result.json").read_bytes()
    await store.put(f"reconstructions/{OTHER}/result.json", note, "application/json")
    assert await fingerprints.find(store, OTHER) is None


async def test_a_note_without_its_ply_is_not_found(place: tuple[Store, Path]) -> None:
    store, _ = place
    kept = await fingerprints.keep(store, OF, PLY, GEOMETRY)
    await store.delete(kept.ply.key)
    assert await fingerprints.find(store, OF) is None


def test_a_crash_between_the_ply_and_its_note_leaves_nothing_to_be_found(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, pathlib, signal, sys, orjson\n"
        "from stream_worker import fingerprints\n"
        "from stream_worker.events import Geometry\n"
        "from stream_worker.store import DirectoryStore\n"
        "class Killed(DirectoryStore):\n"
        "    def _put(self, key, *rest):\n"
        "        if key.endswith('result.json'):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super()._put(key, *rest)\n"
        "geometry = Geometry.model_validate(orjson.loads(sys.argv[3]))\n"
        "store = Killed(pathlib.Path(sys.argv[1]))\n"
        "asyncio.run(fingerprints.keep(store, sys.argv[2], b'ply', geometry))\n"
    )
    geometry = orjson.dumps(GEOMETRY.model_dump(mode="json")).decode()
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), OF, geometry], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "reconstructions" / OF).iterdir())) == 1

    async def again() -> None:
        async with DirectoryStore(tmp_path) as store:
            assert await fingerprints.find(store, OF) is None
            kept = await fingerprints.keep(store, OF, PLY, GEOMETRY)
            assert await fingerprints.find(store, OF) == kept

    asyncio.run(again())
