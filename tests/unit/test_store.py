"""What of the stores needs no server: addresses and keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.errors import Exit, Reason, RecordFault, UserError
from stream_worker.settings import Settings
from stream_worker.store import DirectoryStore, open_store
from stream_worker.store.blobs import refuse_key
from stream_worker.store.s3 import S3Store


def of(url: str | None, tmp_path: Path, **more: object) -> Settings:
    return Settings(store={"url": url, **more}, local={"data_dir": tmp_path})  # type: ignore[arg-type]


def test_a_folder_can_be_named_in_two_ways(tmp_path: Path) -> None:
    for url in (f"{tmp_path}/a b", f"file://{tmp_path}/a%20b", f"file://localhost{tmp_path}/a%20b"):
        store = open_store(of(url, tmp_path))
        assert isinstance(store, DirectoryStore)
        assert store.root == tmp_path / "a b"
        assert store.url("images/1") == f"file://{tmp_path}/a%20b/images/1"


def test_without_a_name_the_store_is_in_the_data_folder(tmp_path: Path) -> None:
    store = open_store(of(None, tmp_path))
    assert isinstance(store, DirectoryStore)
    assert store.root == tmp_path / "store"


def test_a_bucket_may_have_a_prefix(tmp_path: Path) -> None:
    for url, shown in (("s3://bucket/a/b", "s3://bucket/a/b/k"), ("s3://bucket", "s3://bucket/k")):
        store = open_store(of(url, tmp_path, endpoint="127.0.0.1:1", access_key="a", secret_key="b"))
        assert isinstance(store, S3Store)
        assert store.url("k") == shown


@pytest.mark.parametrize("url", ["", "ftp://host/x", "s3://", "file://elsewhere/x", "s3://bucket/../x", "http://h/b"])
def test_an_address_of_no_store_is_one_clear_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"store\.url") as caught:
        open_store(of(url, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_bad_endpoint_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_store(of("s3://bucket", tmp_path, endpoint="http://host:9000/path", access_key="a", secret_key="b"))
    assert caught.value.exit_code == Exit.STORE


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be made") as caught:
        open_store(of(f"{tmp_path}/file/x", tmp_path))
    assert caught.value.exit_code == Exit.STORE


@pytest.mark.parametrize("key", ["images/0a1b", "reconstructions/f/0.ply", "a", "A_b-c.d/e"])
def test_keys_that_are_accepted(key: str) -> None:
    refuse_key(key)


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "a/../b", ".a", "a/.b", "a\\b", "a b", "a\n", "ä", "a\0", "x" * 201, "a/" * 600],
)
def test_keys_that_are_refused(key: str) -> None:
    with pytest.raises(RecordFault) as caught:
        refuse_key(key)
    assert caught.value.reason == Reason.INVALID_EVENT


@given(st.text(alphabet="ab./\\-_ ~\n", max_size=20))
def test_no_accepted_key_leaves_its_folder(key: str) -> None:
    try:
        refuse_key(key)
    except RecordFault:
        return
    assert (Path("/root-of-store") / key).resolve().is_relative_to("/root-of-store")
    assert not any(part.startswith(".") for part in key.split("/"))
