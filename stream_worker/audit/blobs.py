"""The blobs that events reference: whether they are there and what they should be; and those that none references."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from urllib.parse import unquote, urlsplit

from stream_worker.audit.digests import DigestTable, digest_of
from stream_worker.audit.findings import EXAMPLES, BlobCounts, Example, Findings, Kind
from stream_worker.errors import Exit, OutageError, RecordFault, UserError
from stream_worker.events import BlobRef
from stream_worker.store import Store

AT_ONCE = 4
"""Blobs that are read at the same time; each is held whole meanwhile."""

GRACE = timedelta(hours=1)
"""A blob younger than this may be referenced by a transaction that is still to come."""


class BlobCheck:
    """Checks every distinct reference once, in the background. `finish` waits for all of them.

    Holds two digests for each reference, 16 bytes that take 24 to 48 in their tables.
    """

    def __init__(self, store: Store, findings: Findings, *, quick: bool) -> None:
        self._store = store
        self._findings = findings
        self._quick = quick
        self._checked = DigestTable()
        self._keys = DigestTable()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self.counts = BlobCounts()

    async def check(self, refs: Iterable[BlobRef], image_id: str, run: str) -> None:
        """Check these references of an image; waits while enough others are being checked.

        Raises UserError where the store is away.
        """
        for ref in refs:
            if not self._checked.add(digest_of(ref.key, ref.sha256, str(ref.size))):
                continue
            self.counts.referenced += 1
            self._keys.add(digest_of(ref.key))
            if note := _note_beside(ref.key):
                self._keys.add(digest_of(note))
            await self._places.acquire()
            self._raise()
            task = asyncio.create_task(self._look(ref, image_id, run))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def finish(self) -> None:
        """Wait for all checks. Raises UserError where the store was away."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._raise()

    async def cancel(self) -> None:
        """End all checks."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def unreferenced(self, before: datetime) -> None:
        """Count the blobs that nothing references and that are older than `before` less the grace."""
        self.counts.unreferenced = 0
        oldest_young = (before - GRACE).timestamp()
        try:
            for prefix in ("images/", "reconstructions/"):
                for blob in await self._store.list(prefix):
                    if digest_of(blob.key) in self._keys:
                        continue
                    written_at = self._written_at(blob.key)
                    if written_at is None:
                        self.counts.unreferenced_age_unknown += 1
                    elif written_at > oldest_young:
                        continue
                    else:
                        self.counts.unreferenced += 1
                    if len(self.counts.unreferenced_keys) < EXAMPLES:
                        self.counts.unreferenced_keys.append(blob.key)
        except OutageError as error:
            raise _away(error) from None

    def _written_at(self, key: str) -> float | None:
        """When a blob was written, seconds since 1970; None where the store does not say."""
        address = urlsplit(self._store.url(key))
        if address.scheme != "file":
            return None
        try:
            return os.stat(unquote(address.path)).st_mtime
        except OSError:
            return None

    async def _look(self, ref: BlobRef, image_id: str, run: str) -> None:
        kind, detail = Kind.BLOB_WRONG, ""
        try:
            there = await self._store.stat(ref.key)
            if there is None:
                kind, detail = Kind.BLOB_MISSING, f"{ref.key} is not in the store"
            elif there.size != ref.size:
                detail = f"{ref.key} has {there.size} bytes, referenced are {ref.size}"
            elif not self._quick:
                await self._store.get(ref)
                self.counts.read_bytes += ref.size
        except RecordFault as fault:
            detail = fault.message
        if detail:
            self._findings.add(kind, Example(detail, image_id, run))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._places.release()
        self._tasks.discard(task)
        if not task.cancelled():
            self._error = self._error or task.exception()

    def _raise(self) -> None:
        if isinstance(self._error, OutageError):
            raise _away(self._error) from None
        if self._error is not None:
            raise self._error


def _note_beside(key: str) -> str | None:
    """The note of a finished fingerprint lies beside its PLY, and no event names it."""
    folder, _, _ = key.rpartition("/")
    return f"{folder}/result.json" if folder.startswith("reconstructions/") else None


def _away(error: OutageError) -> UserError:
    return UserError(f"blobs can't be checked: {error}", Exit.STORE)
