"""The object store, used as the service uses it: a blob of our own put, read back, compared and removed."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from stream_worker.doctor.check import Finding, failed, ok, warning
from stream_worker.errors import OutageError, RecordFault, UserError
from stream_worker.settings import Settings
from stream_worker.store import Store, folder_of, open_store
from stream_worker.store.directory import MARK
from stream_worker.store.threads import Threads

FOLDER = "doctor"
"""Where our blobs are for a moment. One that stays there is of a doctor that was killed: nobody needs it."""
SIZE = 4096

ADVICE = {
    "no such bucket": "make the bucket, name another in store.url, or let the service make it: store.create_bucket",
    "SignatureDoesNotMatch": "store.secret_key_file is not the secret of store.access_key",
    "InvalidAccessKeyId": "the server knows no such store.access_key",
    "AccessDenied": "give store.access_key GetObject, PutObject, DeleteObject and ListBucket of the bucket; "
    "some servers say so of a wrong secret too (store.secret_key_file)",
    "RequestTimeTooSkewed": "set this machine's clock: NTP",
    "certificate": "store.ca_file names the authorities that may sign it",
    "can't be reached": "see to store.endpoint and store.secure, the server, and the network between",
    "No space": "make room on the file system of the store",
}


async def blobs(settings: Settings, threads: Threads) -> list[Finding]:
    """Whether the store can be used. Nothing is made that is not there: neither a bucket nor a folder."""
    if (folder := folder_of(settings)) is not None:
        if (lacking := await threads.run(_not_yet, folder)) is not None:
            return [lacking]
    elif settings.store.create_bucket:
        settings = settings.model_copy(update={"store": settings.store.model_copy(update={"create_bucket": False})})
    try:
        async with await threads.run(open_store, settings) as store:
            return await _used(store)
    except (UserError, OutageError) as error:
        return [failed("store", str(error), advice(str(error)))]
    except RecordFault as fault:
        return [failed("store", f"what was put does not come back: {fault.message}", "this store is not to be trusted")]


def advice(message: str) -> str:
    """What to do about what a store says."""
    return next((do for word, do in ADVICE.items() if word in message), "see the store's own log")


def _not_yet(folder: Path) -> Finding | None:
    """A store that no worker has made yet. No mark is made: this may be the place of one that is unmounted."""
    if (folder / MARK).is_file():
        return None
    above = next((one for one in (folder, *folder.absolute().parents) if one.exists()), Path("/"))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return failed("store", f"{folder} can't be made: {above} is not ours to write to", "store.url, or its owner")
    seen = f"{folder} is no store yet"
    return warning("store", seen, "nothing, if it is new: the first worker makes it; else mount it before that")


async def _used(store: Store) -> list[Finding]:
    key, data = f"{FOLDER}/{uuid.uuid4().hex}", os.urandom(SIZE)
    try:
        reference = await store.put(key, data, "application/octet-stream")
        await store.get(reference)  # which compares
        findings = [ok("store", f"{store.where}: put, read back and compared")]
        findings += await _conditional(store, key)
    finally:
        left = await _removed(store, key)
    return [*findings, *left]


async def _conditional(store: Store, key: str) -> list[Finding]:
    """Two writers of one key: whether the second one hears of the first. Of S3 servers only."""
    from stream_worker.store.s3 import S3Store  # minio takes half a second

    if not isinstance(store, S3Store):
        return []
    do = "nothing: the service does not depend on it. What else writes to this bucket may"
    try:
        if await store.put_if_absent(key, b"replaced"):
            return [warning("store", "conditional puts are not known there: If-None-Match was ignored", do)]
    except OutageError as error:
        return [warning("store", f"conditional puts are refused: {error}", do)]
    return [ok("store", "a conditional put of a key that is there is refused, as it should be")]


async def _removed(store: Store, key: str) -> list[Finding]:
    try:
        await store.delete(key)
        if not await store.exists(key):
            return []
        seen = f"{key} is still there after it was removed"
    except OutageError as error:
        seen = f"{key} can't be removed: {error}"
    return [warning("store", seen, f"allow DeleteObject; remove {FOLDER}/ by hand")]
