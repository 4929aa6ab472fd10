"""How the C library's allocator gives memory back, in a process that lives for weeks."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

ARENAS = 2
"""glibc gives threads heaps of their own, eight for each core, and each keeps what it held at most. Our threads wait
for disks and sockets more than they allocate."""

LARGE = 256 * 1024
"""Bytes from which on a buffer (of a fetch, a photo, a PLY) is mapped by itself and returned when it is freed. Left
alone, glibc raises this to 32 MiB after the first large buffer, and what lies between smaller ones stays."""


def give_back() -> bool:
    """Have this process keep less than glibc would. False with another C library, where nothing is changed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_ARENA_MAX, ARENAS)) and bool(mallopt(_M_MMAP_THRESHOLD, LARGE))
