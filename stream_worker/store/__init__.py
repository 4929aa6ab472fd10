"""The object store: photos and results by key, in a folder or in a bucket of any S3 server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from stream_worker.errors import UserError
from stream_worker.security import secret
from stream_worker.settings import Settings
from stream_worker.settings import Store as StoreSettings
from stream_worker.store.blobs import BlobStat, Store
from stream_worker.store.directory import DirectoryStore

if TYPE_CHECKING:
    from stream_worker.store.photos import S3Photos

AWS = "s3.amazonaws.com"
"""The S3 server where none is named."""

__all__ = ["BlobStat", "DirectoryStore", "Store", "folder_of", "open_photos", "open_store"]


def open_store(settings: Settings) -> Store:
    """The store that `store.url` names, else the local default: a folder in `local.data_dir`.

    `async with` checks that it can be used, and closes it. Raises UserError for an address that names no store.
    """
    store = settings.store
    if (folder := folder_of(settings)) is not None:
        return DirectoryStore(folder, timeout_s=store.timeout_s)
    parts = urlsplit(store.url or "")
    if parts.scheme == "s3" and parts.netloc:
        from stream_worker.store.s3 import S3Store  # minio is half a second of a folder's worker's start

        return S3Store(
            parts.netloc,
            parts.path.strip("/"),
            create_bucket=store.create_bucket,
            **_server(store),
        )
    raise UserError(f"store.url {store.url!r} is no store: /folder, file:///folder or s3://bucket/prefix")


def open_photos(settings: Settings) -> S3Photos:
    """The buckets of the store's S3 server (`store.endpoint`, else AWS), also where the store itself is a folder.

    Raises UserError for an address that can't be one.
    """
    from stream_worker.store.photos import S3Photos
    from stream_worker.store.s3 import Server

    server = _server(settings.store)
    return S3Photos(Server(f"S3 server {server['endpoint']}", **server))


def folder_of(settings: Settings) -> Path | None:
    """The folder that is the store; None where it is none. Nothing is made."""
    url = settings.store.url
    if url is None:
        return settings.local.data_dir / "store"
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return Path(unquote(parts.path))
    return Path(url).expanduser() if url and "://" not in url else None


def _server(store: StoreSettings) -> dict[str, Any]:
    """What `s3.Server` is told, whatever is read there."""
    return {
        "endpoint": store.endpoint or AWS,
        "access_key": store.access_key,
        "secret_key": _secret_key(store),
        "region": store.region,
        "secure": store.secure,
        "ca_file": store.ca_file,
        "timeout_s": store.timeout_s,
    }


def _secret_key(store: StoreSettings) -> str | None:
    if store.secret_key_file is not None:
        return secret(store.secret_key_file, "store.secret_key_file")
    return None if store.secret_key is None else store.secret_key.get_secret_value()
