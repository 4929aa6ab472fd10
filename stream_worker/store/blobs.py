"""What every store can do: the keys it accepts, the references it gives, and its own threads."""

from __future__ import annotations

import asyncio
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from stream_worker import telemetry
from stream_worker.errors import Exit, Ours, OutageError, Reason, RecordFault, UserError
from stream_worker.events import BlobRef
from stream_worker.store.threads import Threads

T = TypeVar("T")

_SEGMENT = r"(?!\.)[A-Za-z0-9._-]{1,200}"  # none starts with a dot: no "..", and half-written files stay unseen
KEY = re.compile(f"(?:{_SEGMENT}/)*{_SEGMENT}")
_KEY_LENGTH = 900  # S3 ends at 1024, and a prefix stands before it
_FOUND_LIMIT = 16 * 2**20  # bytes of a blob that is read without a reference
_THREADS = 8

log = telemetry.get(__name__)


@dataclass(frozen=True)
class BlobStat:
    """A blob that is in the store."""

    key: str
    size: int  # bytes


class Store(ABC):
    """Blobs by key. The subclasses do the blocking work, in threads of the store's own.

    Errors of every call: OutageError when the store is away or refuses us (wait, blame no record); RecordFault
    with BLOB_MISSING when a referenced blob is not there or not what it was, and with INVALID_EVENT for a key
    that no store accepts.
    """

    def __init__(self, where: str, timeout_s: float) -> None:
        self.where = where
        self._timeout_s = timeout_s
        # Its own, so that a disk or server that hangs starves nobody else's work.
        self._threads = Threads(_THREADS, "store")

    async def __aenter__(self) -> Self:
        await self.check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def check(self) -> None:
        """Prove, once at start, that the store can be used; UserError (Exit.STORE) says what to mend."""
        try:
            await self._run(self._check)
        except OutageError as error:
            raise UserError(f"the store can't be used: {error}", Exit.STORE) from None

    async def close(self) -> None:
        """Give back threads and connections. A call that is stuck is not waited for."""
        self._threads.close()

    async def put(self, key: str, data: bytes, media_type: str, *, anew: bool = False) -> BlobRef:
        """Store `data`. When this returns it is durable; at no time can a reader see a part of it.

        The same bytes under the same key are not written again; other bytes replace them. `anew` writes them in
        any case: a server's word for "the same" is the digest that it noted once, not what its disk holds now.
        """
        refuse_key(key)
        ref = BlobRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size=len(data), media_type=media_type)
        await self._run(self._put, key, data, media_type, anew)
        return ref

    async def put_content(
        self, folder: str, data: bytes, media_type: str, suffix: str = "", *, anew: bool = False
    ) -> BlobRef:
        """Store `data` under its own name: `<folder>/<sha256><suffix>`."""
        return await self.put(f"{folder}/{hashlib.sha256(data).hexdigest()}{suffix}", data, media_type, anew=anew)

    async def get(self, ref: BlobRef) -> bytes:
        """The bytes of `ref`, whose size and sha256 were checked.

        Bytes that differ are read once more, for they may have been spoilt on their way. The same wrong bytes
        twice are the blob itself: BLOB_MISSING. Wrong bytes that differ from read to read are the way's: an outage.
        """
        data = await self._read(ref)
        if _is_of(data, ref):
            return data
        again = await self._read(ref)
        if _is_of(again, ref):
            log.warning("a read was spoilt on its way, the next was not", store=self.where, key=ref.key)
            return again
        if again != data:
            raise OutageError(f"{self.where}: {ref.key} is read differently each time", Ours.STORE)
        raise RecordFault(Reason.BLOB_MISSING, f"blob {ref.key} is not what it was when it was referenced")

    async def find(self, key: str) -> bytes | None:
        """The bytes under a key, unchecked, or None where there are none. For small blobs: at most 16 MiB."""
        refuse_key(key)
        data = await self._run(self._get, key, _FOUND_LIMIT)
        if data is not None and len(data) > _FOUND_LIMIT:
            raise RecordFault(Reason.BLOB_MISSING, f"blob {key} is too large to be read without a reference")
        return data

    async def exists(self, key: str) -> bool:
        """Whether a blob is there."""
        return await self.stat(key) is not None

    async def stat(self, key: str) -> BlobStat | None:
        """A blob's size, or None where there is none."""
        refuse_key(key)
        size = await self._run(self._size, key)
        return None if size is None else BlobStat(key, size)

    async def delete(self, key: str) -> None:
        """Remove a blob; one that is not there is no error."""
        refuse_key(key)
        await self._run(self._delete, key)

    async def list(self, prefix: str = "") -> tuple[BlobStat, ...]:
        """All blobs whose keys start with `prefix`, by key."""
        found = await self._run(self._list, prefix)
        return tuple(sorted((blob for blob in found if KEY.fullmatch(blob.key)), key=lambda blob: blob.key))

    def url(self, key: str) -> str:
        """Where a person or another program finds a blob: file:///... or s3://bucket/..."""
        refuse_key(key)
        return self._url(key)

    async def _read(self, ref: BlobRef) -> bytes:
        refuse_key(ref.key)
        data = await self._run(self._get, ref.key, ref.size)
        if data is None:
            raise RecordFault(Reason.BLOB_MISSING, f"blob {ref.key} is not in the store")
        return data

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """A time limit ends the waiting. The work itself has limits of its own, or is harmless when it ends late."""
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._threads.run(work, *arguments)
        except TimeoutError:
            raise OutageError(f"{self.where} did not answer within {self._patience_s:.0f} s", Ours.STORE) from None

    @property
    def _patience_s(self) -> float:
        return self._timeout_s

    @abstractmethod
    def _check(self) -> None:
        """Raise OutageError, or UserError, where the store can't be used."""

    @abstractmethod
    def _put(self, key: str, data: bytes, media_type: str, anew: bool) -> None: ...

    @abstractmethod
    def _get(self, key: str, size: int) -> bytes | None:
        """The bytes, `size` + 1 of them when there are more than `size`; None where there is no blob."""

    @abstractmethod
    def _size(self, key: str) -> int | None: ...

    @abstractmethod
    def _delete(self, key: str) -> None: ...

    @abstractmethod
    def _list(self, prefix: str) -> tuple[BlobStat, ...]: ...

    @abstractmethod
    def _url(self, key: str) -> str: ...


def _is_of(data: bytes, ref: BlobRef) -> bool:
    return len(data) == ref.size and hashlib.sha256(data).hexdigest() == ref.sha256


def refuse_key(key: str) -> None:
    """Raise RecordFault for a key that could leave its place: absolute, with .. or a hidden or odd name."""
    if len(key) > _KEY_LENGTH or not KEY.fullmatch(key):
        raise RecordFault(Reason.INVALID_EVENT, f"{key[:100]!r} can't be a key of the object store")
