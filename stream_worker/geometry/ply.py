"""The check of a PLY of 3D Gaussians that somebody else wrote: its header, its size, and every number in it."""

from __future__ import annotations

import re

import numpy as np

from stream_worker.geometry.gaussians import PROPERTIES

MAX_HEADER = 8192
"""Bytes. The 17 properties and 45 higher harmonics take 1.3 kB."""

_HEADER = re.compile(
    rb"ply\nformat binary_little_endian 1\.0\n(?:comment [^\n]*\n)*element vertex ([0-9]{1,10})\n"
    rb"((?:property float [A-Za-z0-9_]{1,64}\n)+)end_header\n"
)

_CHUNK = 1 << 18
"""Floats that are looked at at once: the marks of a megabyte of them stay in the cache."""


def check(data: bytes) -> int:
    """Return how many Gaussians are in a PLY file, all of whose numbers are finite.

    A vertex has the properties of `gaussians.PROPERTIES` in their order, each once; further ones, all float32 too, may
    stand between or behind them (`f_rest_*`). Nothing of the file is copied.

    Raises ValueError, in one line, for any other header, a body that is not as long as the header says, no Gaussian,
    and a number that is NaN or infinite.
    """
    header = _HEADER.match(data[:MAX_HEADER])
    if header is None:
        raise ValueError("not a binary little-endian PLY of 3D Gaussians, all of whose properties are float")
    names = [line.rpartition(b" ")[2].decode("ascii") for line in header[2].splitlines()]
    known = [name for name in names if name in PROPERTIES]
    if known != list(PROPERTIES) or len(set(names)) != len(names):
        raise ValueError("PLY: its properties are not those of 3D Gaussians, in their order, each once")
    count, body = int(header[1]), len(data) - header.end()
    if body != count * 4 * len(names):
        raise ValueError(f"PLY: {count} Gaussians take {count * 4 * len(names)} bytes, but {body} follow the header")
    if count == 0:
        raise ValueError("PLY: no Gaussians")
    values = np.frombuffer(data, "<f4", offset=header.end())
    for start in range(0, len(values), _CHUNK):
        finite = np.isfinite(values[start : start + _CHUNK])
        if not finite.all():
            vertex, column = divmod(start + int(finite.argmin()), len(names))
            raise ValueError(f"PLY: {names[column]} of Gaussian {vertex} is not finite")
    return count
