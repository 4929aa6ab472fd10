"""Object masks as COCO run lengths: to and from boolean arrays, and the check of those that come from outside.

A mask is `{"size": [height, width], "counts": "..."}`: run lengths of alternating False and True pixels in
column-major order, as COCO's compressed string (`rleToString` in cocoapi's common/maskApi.c). pycocotools reads
such a string in C and trusts it: `decode`, `area` and `box` therefore `validate` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

MAX_PIXELS = 2**27
"""Pixels of the largest mask that is read (134 megapixels): bounds what `decode` allocates."""

MAX_COUNTS = 2**23
"""Characters of the longest run-length string that is read: beyond any Kafka record, and it bounds the check."""

# Six 5-bit groups hold +-2^29, more than any difference of two runs of MAX_PIXELS. A seventh group would make the
# C reader shift a 32-bit int by 35 when it extends the sign, which C leaves undefined.
_MAX_GROUPS = 6


class Rle(TypedDict):
    """A mask in COCO's compressed run lengths: size is [height, width] in pixels, counts is ASCII."""

    size: list[int]
    counts: str


def encode(mask: NDArray[np.bool_]) -> Rle:
    """Return the run lengths of `mask`, (height, width) bool. Raises ValueError for another shape, dtype or size."""
    if mask.ndim != 2 or mask.dtype != np.bool_ or not 0 < mask.size <= MAX_PIXELS:
        raise ValueError(f"a mask is a non-empty (height, width) bool array, not {mask.dtype} {mask.shape}")
    rle = coco.encode(np.asfortranarray(mask).view(np.uint8))
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": rle["counts"].decode("ascii")}


def decode(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the mask as (height, width) bool, column-major in memory. Raises ValueError as `validate` does."""
    decoded: NDArray[np.uint8] = coco.decode(validate(rle))
    return decoded.view(np.bool_)


def area(rle: Mapping[str, Any]) -> int:
    """Return how many pixels are in the mask. Raises ValueError as `validate` does."""
    return int(coco.area(validate(rle)))


def box(rle: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Return (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; (0, 0, 0, 0) for an empty mask.

    Raises ValueError as `validate` does.
    """
    x, y, width, height = (int(side) for side in coco.toBbox(validate(rle)))
    return x, y, x + width, y + height


def packed(mask: Mapping[str, Any] | Rle) -> bytes:
    """Return the pixels of `mask` as bits, eight a byte, row after row (`numpy.packbits`). Raises as `decode` does."""
    return np.packbits(decode(mask)).tobytes()


def validate(rle: Any, *, max_pixels: int = MAX_PIXELS) -> Rle:
    """Return `rle` if it is a well-formed mask of at most `max_pixels`, else raise ValueError with one clear line.

    Well-formed: the runs are not negative, only the first may be zero, and they sum to height x width exactly.
    That makes every later read and write of the C code fall inside its buffers.
    """
    if not isinstance(rle, Mapping):
        raise ValueError("mask: it must be an object with size and counts")
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(side) is int for side in size):
        raise ValueError("mask: size must be two integers, [height, width]")
    height, width = size
    if height < 1 or width < 1 or height * width > min(max_pixels, MAX_PIXELS):
        raise ValueError(f"mask: {height} x {width} pixels is outside 1 to {min(max_pixels, MAX_PIXELS)}")
    if not isinstance(counts, str) or not counts.isascii() or not 0 < len(counts) <= MAX_COUNTS:
        raise ValueError(f"mask: counts must be a string of 1 to {MAX_COUNTS} ASCII characters")
    runs = _runs(counts)
    if int(runs.min()) < 0 or (runs[1:] == 0).any() or int(runs.max()) > height * width:
        raise ValueError("mask: counts hold a run length that no mask of this size has")
    if int(runs.sum()) != height * width:
        raise ValueError(f"mask: runs sum to {int(runs.sum())} pixels, but {height} x {width} is {height * width}")
    return {"size": [height, width], "counts": counts}


def _runs(counts: str) -> NDArray[np.int64]:
    """Return the run lengths written in `counts`, all at once (a megabyte takes milliseconds).

    A number is a string of 5-bit groups, lowest first, each in a character from chr(48); bit 5 says that more
    follow and bit 4 of the last is the sign. From the fourth number on it is the difference to the last but one.
    """
    groups = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if int(groups.min()) < 0 or int(groups.max()) > 63:
        raise ValueError("mask: counts hold a character outside COCO's run-length alphabet")
    ends = np.flatnonzero(groups < 32)
    if ends.size == 0 or ends[-1] != groups.size - 1:
        raise ValueError("mask: counts end in the middle of a number")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if int(lengths.max()) > _MAX_GROUPS:
        raise ValueError("mask: counts hold a number too long for any run")
    place = 5 * (np.arange(groups.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((groups & 31) << place, starts)
    values -= np.where(groups[ends] & 16, 1 << (5 * lengths), 0)
    # Sums stay below 2^30 * 2^23: no overflow whatever the input.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
