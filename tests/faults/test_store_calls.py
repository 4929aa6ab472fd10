"""One call to the store under each fault: the store's and the network's are outages, the blob's is the record's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream_worker.errors import OutageError, Reason, RecordFault
from stream_worker.store import DirectoryStore, Store
from stream_worker.store.s3 import S3Store
from tests.faults.mounts import bound, tmpfs
from tests.integration.test_store import JPEG, s3_store
from tests.servers.faulty_http import Fault, FaultyProxy
from tests.servers.s3 import S3Server

SEED = 20261124
PHOTO = bytes(range(256)) * 40


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3.endpoint, SEED) as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: FaultyProxy, s3: S3Server, bucket: str) -> AsyncIterator[S3Store]:
    async with s3_store(s3, bucket, endpoint=proxy.endpoint, timeout_s=1.0) as store:
        yield store


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.GARBLED, Fault.RESET, Fault.HANG])
async def test_a_server_that_does_not_serve_is_an_outage(store: S3Store, proxy: FaultyProxy, fault: Fault) -> None:
    ref = await store.put("images/a", PHOTO, JPEG)
    with proxy.faulty(fault):
        for call in (
            store.get(ref),
            store.find("images/a"),
            store.put("images/b", PHOTO, JPEG),
            store.stat("images/a"),
        ):
            with pytest.raises(OutageError):
                await call
    assert proxy.landed[fault] >= 4
    assert await store.get(ref) == PHOTO


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.TRICKLE])
async def test_a_read_that_does_not_end_is_an_outage(store: S3Store, proxy: FaultyProxy, fault: Fault) -> None:
    ref = await store.put("images/a", PHOTO, JPEG)
    with proxy.faulty(fault):
        for call in (store.get(ref), store.find("images/a")):
            with pytest.raises(OutageError):
                await call
    assert await store.get(ref) == PHOTO


async def test_reads_that_trickle_do_not_use_up_the_threads(store: S3Store, proxy: FaultyProxy) -> None:
    """They end on their own, while the server goes on sending: the store works again before they are cut off."""
    ref = await store.put("images/slow", PHOTO, JPEG)
    other = await store.put("images/other", PHOTO, JPEG)
    with proxy.faulty(Fault.TRICKLE, where="images/slow"):
        ended = await asyncio.gather(*(store.get(ref) for _ in range(8)), return_exceptions=True)
        assert [type(error) for error in ended] == [OutageError] * 8
        assert await store.get(other) == PHOTO


async def test_a_byte_that_was_flipped_on_its_way_is_read_again(store: S3Store, proxy: FaultyProxy) -> None:
    ref = await store.put("images/a", PHOTO, JPEG)
    with proxy.faulty(Fault.FLIP, times=1):
        assert await store.get(ref) == PHOTO
    assert proxy.landed[Fault.FLIP] == 1


async def test_bytes_that_are_flipped_in_every_read_are_an_outage(store: S3Store, proxy: FaultyProxy) -> None:
    ref = await store.put("images/a", PHOTO, JPEG)
    with proxy.faulty(Fault.FLIP), pytest.raises(OutageError, match="differently each time"):
        await store.get(ref)
    assert await store.get(ref) == PHOTO


@pytest.mark.parametrize("spoilt", [b"!" + PHOTO[1:], PHOTO[:-1], PHOTO * 100, b""])
async def test_a_blob_that_is_wrong_on_the_servers_disk_is_the_records_fault(
    store: S3Store, s3: S3Server, bucket: str, spoilt: bytes
) -> None:
    """Also one that is much larger, which no two reads would give the same part of."""
    ref = await store.put("images/a", PHOTO, JPEG)
    (s3.data / bucket / "images/a").write_bytes(spoilt)
    with pytest.raises(RecordFault) as caught:
        await store.get(ref)
    assert caught.value.reason == Reason.BLOB_MISSING


async def test_a_put_that_was_done_but_answered_with_an_error_is_put_again(store: S3Store, proxy: FaultyProxy) -> None:
    with proxy.faulty(Fault.DONE_BUT_FAILED), pytest.raises(OutageError):
        await store.put("images/a", PHOTO, JPEG)
    assert proxy.landed[Fault.DONE_BUT_FAILED] == 2  # the client's own second attempt too
    ref = await store.put("images/a", PHOTO, JPEG)
    assert await store.get(ref) == PHOTO


async def test_a_put_anew_does_not_take_the_servers_word(store: S3Store, s3: S3Server, bucket: str) -> None:
    """The server answers with the digest that it noted when it wrote, whatever lies on its disk by now."""
    ref = await store.put("images/a", PHOTO, JPEG)
    (s3.data / bucket / "images/a").write_bytes(b"!" + PHOTO[1:])
    await store.put("images/a", PHOTO, JPEG, anew=True)
    assert await store.get(ref) == PHOTO


# ---------------------------------------------------------------------- the folder


@contextmanager
def hung(store: DirectoryStore, count: int) -> Iterator[list[str]]:
    """Keys whose reads never return, as on a dead mount: FIFOs that nobody writes to. The end lets the readers go."""
    keys = [f"hung/{number}" for number in range(count)]
    (store.root / "hung").mkdir()
    for key in keys:
        os.mkfifo(store.root / key)
    try:
        yield keys
    finally:
        for key in keys:
            os.close(os.open(store.root / key, os.O_RDWR))


async def test_a_folder_that_hangs_is_an_outage_also_when_all_threads_hang(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path, timeout_s=1.0) as store:
        ref = await store.put("images/a", PHOTO, JPEG)
        with hung(store, 8) as keys:
            ended = await asyncio.gather(*(store.find(key) for key in keys), return_exceptions=True)
            assert [type(error) for error in ended] == [OutageError] * 8
            with pytest.raises(OutageError, match="did not answer"):
                await store.get(ref)
        assert await store.get(ref) == PHOTO


def test_threads_that_hang_do_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, pathlib, sys\n"
        "from stream_worker.errors import OutageError\n"
        "from stream_worker.store import DirectoryStore\n"
        "async def main():\n"
        "    root = pathlib.Path(sys.argv[1])\n"
        "    async with DirectoryStore(root, timeout_s=0.5) as store:\n"
        "        os.mkfifo(root / 'hung')\n"
        "        ended = await asyncio.gather(*(store.find('hung') for _ in range(9)), return_exceptions=True)\n"
        "        print(sum(isinstance(error, OutageError) for error in ended))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "9"), done.stderr


async def test_a_full_disk_is_an_outage_and_leaves_no_scratch(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "1m"):
        async with DirectoryStore(tmp_path / "disk") as store:
            ref = await store.put("images/a", PHOTO, JPEG)
            with pytest.raises(OutageError, match="No space left"):
                await store.put("images/b", bytes(2**20), JPEG)
            assert list((tmp_path / "disk/.put").iterdir()) == []
            assert not await store.exists("images/b")
            assert await store.get(ref) == PHOTO
            await store.put("images/c", PHOTO, JPEG)


async def test_a_store_that_is_unmounted_is_an_outage_and_its_mount_point_no_store(tmp_path: Path) -> None:
    """Seen through the empty folder, every blob would be missing, and a new one would vanish at the next mount."""
    disk, root = tmp_path / "disk", tmp_path / "root"
    disk.mkdir()
    with bound(disk, root):
        store = DirectoryStore(root)
        await store.check()
        ref = await store.put("images/a", PHOTO, JPEG)
    for call in (store.get(ref), store.put("images/b", PHOTO, JPEG), store.find("images/a"), store.stat("images/a")):
        with pytest.raises(OutageError, match="is away"):
            await call
    assert list(root.iterdir()) == []
    with bound(disk, root):
        assert await store.get(ref) == PHOTO
    await store.close()


async def test_a_folder_that_can_not_even_be_looked_at_is_an_outage(tmp_path: Path) -> None:
    """A dead network mount refuses `stat` itself. Here a name does that is too long for any file system."""
    async with DirectoryStore(tmp_path) as store:
        store.root = tmp_path / ("x" * 300)
        with pytest.raises(OutageError):
            await store.exists("images/a")


async def test_what_killed_writers_left_is_swept_at_the_next_start_but_no_living_writers_file(tmp_path: Path) -> None:
    DirectoryStore(tmp_path)
    old, young = tmp_path / ".put/old", tmp_path / ".put/young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    async with DirectoryStore(tmp_path):
        assert not old.exists()
        assert young.exists()


async def test_a_name_is_made_durable_again_by_who_finds_the_bytes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's fsync fails after the rename: the next put sees the same bytes, and must not trust them yet."""
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        target = os.readlink(f"/proc/self/fd/{handle}")
        if os.path.isdir(target):
            synced.append(target)
            if len(synced) == 1:
                raise OSError(5, "Input/output error")
        real(handle)

    store: Store = DirectoryStore(tmp_path)
    monkeypatch.setattr("stream_worker.store.directory.os.fsync", fsync)
    with pytest.raises(OutageError, match="Input/output"):
        await store.put("images/deep/a", PHOTO, JPEG)
    await store.put("images/deep/a", PHOTO, JPEG)
    assert synced[1:] == [str(tmp_path / "images/deep"), str(tmp_path / "images"), str(tmp_path)]
    await store.close()
