"""Decoded photos that several objects share: the objects of a photo come one after the other."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stream_worker.events import PhotoRef
from stream_worker.images.decode import Decoder
from stream_worker.images.pixels import Pixels
from stream_worker.store import Store


class SharedPhotos:
    """Pixels by sha256: as many photos as are in use, and the `kept` that were used last."""

    def __init__(self, store: Store, decoder: Decoder, kept: int = 2) -> None:
        self._store = store
        self._decoder = decoder
        self._kept = kept
        self._pixels: OrderedDict[str, Pixels] = OrderedDict()
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def of(self, photo: PhotoRef) -> AsyncIterator[tuple[Pixels, dict[str, float]]]:
        """The photo's pixels, and the seconds that it took to have them (`fetch`, `decode`; none if they were here).

        Raises RecordFault (BLOB_MISSING, or as `Decoder.decode`) and OutageError.
        """
        times: dict[str, float] = {}
        self._users[photo.sha256] += 1
        try:
            if photo.sha256 not in self._pixels:
                started = time.monotonic()
                data = await self._store.get(photo)
                fetched = time.monotonic()
                pixels = await self._decoder.decode(data)
                times = {"fetch": round(fetched - started, 4), "decode": round(time.monotonic() - fetched, 4)}
                if photo.sha256 in self._pixels:  # another object of this photo was quicker
                    pixels.release()
                else:
                    self._pixels[photo.sha256] = pixels
            self._pixels.move_to_end(photo.sha256)
            yield self._pixels[photo.sha256], times
        finally:
            self._users[photo.sha256] -= 1
            self._trim(self._kept)

    def clear(self) -> None:
        """Give all memory back."""
        self._users.clear()
        self._trim(0)

    def _trim(self, kept: int) -> None:
        for sha256 in list(self._pixels):
            if len(self._pixels) <= kept:
                break
            if self._users[sha256] == 0:
                self._pixels.pop(sha256).release()
        self._users = +self._users
