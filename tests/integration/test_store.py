"""The stores' contract, against a folder and against a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from stream_worker.errors import Exit, OutageError, Reason, RecordFault, UserError
from stream_worker.events import BlobRef
from stream_worker.store import BlobStat, DirectoryStore, Store
from stream_worker.store.s3 import S3Store
from tests.servers.certificates import Authority, available
from tests.servers.s3 import S3Server

JPEG = "image/jpeg"


def s3_store(server: S3Server, bucket: str, prefix: str = "", **more: Any) -> S3Store:
    keys = {"access_key": server.access_key, "secret_key": server.secret_key, "secure": False}
    return S3Store(bucket, prefix, **{"endpoint": server.endpoint, "timeout_s": 10.0, **keys, **more})


@pytest.fixture(params=["directory", "s3", "s3-prefix"])
def closed_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    server, bucket = request.getfixturevalue("s3"), request.getfixturevalue("bucket")
    return s3_store(server, bucket, "some/where" if request.param == "s3-prefix" else "")


@pytest.fixture
async def store(closed_store: Store) -> AsyncIterator[Store]:
    """Each kind of store in turn."""
    async with closed_store:
        yield closed_store


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    """A server that a test may stop."""
    server = S3Server(tmp_path / "server")
    server.start()
    yield server
    server.stop()


async def test_what_was_put_is_got(store: Store) -> None:
    for data in (b"", b"photo", os.urandom(6 * 2**20)):  # the last is more than one part of a multipart upload
        ref = await store.put_content("images", data, JPEG)
        sha256 = hashlib.sha256(data).hexdigest()
        assert ref == BlobRef(key=f"images/{sha256}", sha256=sha256, size=len(data), media_type=JPEG)
        assert await store.get(ref) == data
        assert await store.find(ref.key) == data
        assert await store.exists(ref.key)
        assert await store.stat(ref.key) == BlobStat(ref.key, len(data))


async def test_a_missing_blob_is_the_records_fault(store: Store) -> None:
    ref = BlobRef(key="images/none", sha256="0" * 64, size=1, media_type=JPEG)
    with pytest.raises(RecordFault) as caught:
        await store.get(ref)
    assert caught.value.reason == Reason.BLOB_MISSING
    assert await store.find(ref.key) is None
    assert not await store.exists(ref.key)
    assert await store.stat(ref.key) is None
    await store.delete(ref.key)


@pytest.mark.parametrize("other", [b"phot0", b"phot", b"photos", b""])
async def test_a_blob_that_is_not_what_it_was_is_never_handed_out(store: Store, other: bytes) -> None:
    ref = await store.put("images/a", b"photo", JPEG)
    await store.put("images/a", other, JPEG)
    with pytest.raises(RecordFault, match="not what it was") as caught:
        await store.get(ref)
    assert caught.value.reason == Reason.BLOB_MISSING


async def test_deleted_is_missing(store: Store) -> None:
    ref = await store.put("images/a", b"photo", JPEG)
    await store.delete(ref.key)
    assert not await store.exists(ref.key)
    with pytest.raises(RecordFault):
        await store.get(ref)


async def test_list_knows_every_blob_of_a_prefix(store: Store) -> None:
    for key in ("images/b", "images/a", "images-2", "reconstructions/f/a.ply"):
        await store.put(key, key.encode(), JPEG)
    assert [blob.key for blob in await store.list()] == ["images-2", "images/a", "images/b", "reconstructions/f/a.ply"]
    assert await store.list("images/") == (BlobStat("images/a", 8), BlobStat("images/b", 8))
    assert await store.list("nothing") == ()


@pytest.mark.parametrize("key", ["../a", "a/../../b", "/etc/passwd", ".hidden", "a/.put-x", "a//b"])
async def test_no_key_leads_out_of_the_store(store: Store, key: str) -> None:
    ref = BlobRef(key=key, sha256="0" * 64, size=1, media_type=JPEG)
    calls: list[Callable[[], Any]] = [
        lambda: store.put(key, b"x", JPEG),
        lambda: store.get(ref),
        lambda: store.find(key),
        lambda: store.exists(key),
        lambda: store.delete(key),
    ]
    for call in calls:
        with pytest.raises(RecordFault) as caught:
            await call()
        assert caught.value.reason == Reason.INVALID_EVENT


async def test_many_at_once(store: Store) -> None:
    blobs = [b"%d" % number for number in range(40)]
    refs = await asyncio.gather(*(store.put_content("images", data, JPEG) for data in blobs * 2))
    assert await asyncio.gather(*(store.get(ref) for ref in refs)) == blobs * 2
    assert len(await store.list("images/")) == len(blobs)


async def test_the_same_bytes_are_not_written_again_in_a_folder(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path) as store:
        ref = await store.put("images/a", b"photo", JPEG)
        written = (tmp_path / "images/a").stat()
        assert await store.put("images/a", b"photo", JPEG) == ref
        assert (tmp_path / "images/a").stat().st_ino == written.st_ino
        await store.put("images/a", b"other", JPEG)
        assert (tmp_path / "images/a").stat().st_ino != written.st_ino


async def test_the_same_bytes_are_not_written_again_in_a_bucket(s3: S3Server, bucket: str) -> None:
    client = Minio(s3.endpoint, s3.access_key, s3.secret_key, secure=False)
    async with s3_store(s3, bucket) as store:
        await store.put("images/a", b"photo", "text/first")
        await store.put("images/a", b"photo", "text/second")
        assert client.stat_object(bucket, "images/a").content_type == "text/first"
        await store.put("images/a", b"other", "text/third")
        assert client.stat_object(bucket, "images/a").content_type == "text/third"


def test_a_writer_that_dies_leaves_nothing_to_see(tmp_path: Path) -> None:
    """The process is killed when its bytes are written and their name is not yet theirs."""
    script = (
        "import os, signal, sys, pathlib\n"
        "from stream_worker.store import directory\n"
        "directory.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store = directory.DirectoryStore(pathlib.Path(sys.argv[1]))\n"
        "store._put('images/a', b'photo', 'image/jpeg', False)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list((tmp_path / "images").iterdir()) == []
    assert len(list((tmp_path / ".put").iterdir())) == 1
    store = DirectoryStore(tmp_path)
    assert not asyncio.run(store.exists("images/a"))
    assert asyncio.run(store.list()) == ()
    ref = asyncio.run(store.put("images/a", b"photo", JPEG))
    assert asyncio.run(store.get(ref)) == b"photo"


async def test_a_folder_that_is_away_is_an_outage_and_blames_no_record(tmp_path: Path) -> None:
    root = tmp_path / "mounted"
    async with DirectoryStore(root) as store:
        ref = await store.put("images/a", b"photo", JPEG)
        root.rename(tmp_path / "unmounted")
        for call in (store.get(ref), store.put("images/b", b"x", JPEG), store.exists("images/a"), store.list()):
            with pytest.raises(OutageError):
                await call
        (tmp_path / "unmounted").rename(root)
        assert await store.get(ref) == b"photo"


async def test_a_server_that_is_away_is_an_outage_and_comes_back(own_server: S3Server) -> None:
    async with s3_store(own_server, "photos", create_bucket=True, timeout_s=5.0) as store:
        ref = await store.put("images/a", b"photo", JPEG)
        own_server.stop()
        for call in (store.get(ref), store.put("images/b", b"x", JPEG), store.exists("images/a"), store.list()):
            with pytest.raises(OutageError, match="can't be reached"):
                await call
        own_server.start()
        assert await store.get(ref) == b"photo"


async def test_a_server_that_never_answers_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = f"127.0.0.1:{mute.getsockname()[1]}"
        store = S3Store("photos", endpoint=endpoint, access_key="a", secret_key="b", secure=False, timeout_s=0.3)
        with pytest.raises(OutageError):
            await store.exists("images/a")
        await store.close()


async def test_a_bucket_is_made_only_when_told(s3: S3Server) -> None:
    missing = s3_store(s3, "not-there")
    with pytest.raises(UserError, match="no such bucket") as caught:
        await missing.check()
    assert caught.value.exit_code == Exit.STORE
    with pytest.raises(OutageError):
        await missing.put("images/a", b"x", JPEG)
    await missing.close()
    for _ in range(2):
        async with s3_store(s3, "made-when-told", create_bucket=True) as store:
            await store.put("images/a", b"x", JPEG)


@pytest.mark.parametrize("wrong", [{"secret_key": "wrong"}, {"access_key": "nobody"}])
async def test_wrong_credentials_are_one_clear_line_without_the_secret(
    s3: S3Server, bucket: str, wrong: dict[str, str]
) -> None:
    store = s3_store(s3, bucket, **wrong)
    with pytest.raises(UserError) as caught:
        await store.check()
    assert caught.value.exit_code == Exit.STORE
    assert "\n" not in str(caught.value)
    assert s3.secret_key not in str(caught.value)
    with pytest.raises(OutageError):  # later, at work: ours to mend, not the record's
        await store.get(BlobRef(key="a", sha256="0" * 64, size=1, media_type=JPEG))
    await store.close()


@pytest.fixture
def https_server(tmp_path: Path) -> Iterator[tuple[S3Server, Authority]]:
    """A server that speaks https, and whose certificate only this authority has signed."""
    if not available():
        pytest.skip("no openssl here (Debian: apt-get install openssl)")
    authority = Authority(tmp_path / "ca")
    keystore = authority.keystore(authority.sign("s3", "IP:127.0.0.1"), "sesame")
    server = S3Server(tmp_path / "server", (keystore, "sesame"))
    server.start()
    yield server, authority
    server.stop()


async def test_https_with_an_authority_of_ones_own(https_server: tuple[S3Server, Authority], tmp_path: Path) -> None:
    server, authority = https_server
    at = {"endpoint": f"127.0.0.1:{server.secure_port}", "secure": True, "create_bucket": True}
    async with s3_store(server, "tls", **at, ca_file=authority.ca_file) as store:
        ref = await store.put_content("images", b"photo", JPEG)
        assert await store.get(ref) == b"photo"
    other = Authority(tmp_path / "other-ca", "another authority")
    for wrong in ({"ca_file": other.ca_file}, {}):
        with pytest.raises(UserError, match=r"its certificate is not trusted, .* \(store\.ca_file\)") as caught:
            await s3_store(server, "tls", **{**at, **wrong}).check()
        assert caught.value.exit_code == Exit.STORE
