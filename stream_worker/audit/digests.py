"""A table of 16-byte digests in one block of memory: a fraction of what a dict of objects takes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

DIGEST = 16
_EMPTY = bytes(DIGEST)
_FIRST = 1024


def digest_of(*parts: str) -> bytes:
    """16 bytes that stand for these parts. Two of a billion different ones are equal with a probability of 2e-21."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=DIGEST).digest()


class DigestTable:
    """Digests, each with values of fixed size (`values`, as `struct` writes them); nothing is ever taken out.

    An open-addressing hash table that is at most two thirds full and doubles: an entry takes 1.5 to 3 times
    (16 + the values' size) bytes, and half as much again while it doubles.
    """

    def __init__(self, values: str = "") -> None:
        self._values = struct.Struct("<" + values)
        self._slot = DIGEST + self._values.size
        self._capacity = _FIRST
        self._slots = bytearray(_FIRST * self._slot)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def __contains__(self, digest: bytes) -> bool:
        return self._holds(self._find(digest))

    @property
    def nbytes(self) -> int:
        """Bytes that the table takes."""
        return len(self._slots)

    def add(self, digest: bytes) -> bool:
        """Put a digest without values in; False where it was there already."""
        if digest in self:
            return False
        self.put(digest)
        return True

    def get(self, digest: bytes) -> tuple[Any, ...] | None:
        """The values of a digest; None where it is not there."""
        at = self._find(digest)
        return self._values.unpack_from(self._slots, at + DIGEST) if self._holds(at) else None

    def put(self, digest: bytes, *values: Any) -> None:
        """Set the values of a digest."""
        at = self._find(digest)
        if not self._holds(at):
            if 3 * (self._used + 1) > 2 * self._capacity:
                self._double()
                at = self._find(digest)
            self._slots[at : at + DIGEST] = digest
            self._used += 1
        self._values.pack_into(self._slots, at + DIGEST, *values)

    def items(self) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
        """All digests with their values, in no order. The table must not change meanwhile."""
        for at in range(0, len(self._slots), self._slot):
            if self._holds(at):
                yield bytes(self._slots[at : at + DIGEST]), self._values.unpack_from(self._slots, at + DIGEST)

    def _holds(self, at: int) -> bool:
        return self._slots[at : at + DIGEST] != _EMPTY

    def _find(self, digest: bytes) -> int:
        """Where the digest is, or the empty slot where it belongs."""
        at = int.from_bytes(digest[:8], "little") % self._capacity * self._slot
        while (there := self._slots[at : at + DIGEST]) != digest and there != _EMPTY:
            at += self._slot
            if at == len(self._slots):
                at = 0
        return at

    def _double(self) -> None:
        old, self._capacity = self._slots, 2 * self._capacity
        self._slots = bytearray(self._capacity * self._slot)
        for start in range(0, len(old), self._slot):
            entry = old[start : start + self._slot]
            if entry[:DIGEST] != _EMPTY:
                at = self._find(bytes(entry[:DIGEST]))
                self._slots[at : at + self._slot] = entry
