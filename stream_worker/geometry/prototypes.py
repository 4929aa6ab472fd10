"""From a network's coarse mask logits to an exact mask in the photo's pixels, one box at a time.

Logits are interpolated, and thresholded only then: the outline is as smooth as the network drew it, not a
staircase of its cells. Only the pixels of the box are ever held, so a 40-megapixel photo with 60 objects
costs no more memory than its largest box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from stream_worker.geometry.letterbox import Axis, Letterbox
from stream_worker.geometry.masks import Rle

_STRIP_PIXELS = 2**20
"""Interpolated at once: 4 MB of float32, three times over."""


class Crop(NamedTuple):
    """A part of a mask: `inside` (rows, columns) bool, its first pixel at column `left`, row `top`."""

    left: int
    top: int
    inside: NDArray[np.bool_]


def full_resolution_mask(logits: NDArray[np.float32], box: Sequence[float], letterbox: Letterbox) -> Crop:
    """The object's mask inside its box, in the photo's pixels.

    Args:
        logits: (rows, columns) over the letterboxed square, padding included; positive is inside.
        box: x0, y0, x1, y1 in the photo's pixels. A pixel belongs to it when its centre does.
        letterbox: how the photo lies on the square.
    """
    left, right = _pixels(box[0], box[2], letterbox.width)
    top, bottom = _pixels(box[1], box[3], letterbox.height)
    inside = np.zeros((bottom - top, right - left), dtype=np.bool_)
    if inside.size == 0:
        return Crop(left, top, inside)
    horizontal, vertical = letterbox.grid_axes(*logits.shape)
    column, weight_x = _between(left, right, horizontal)
    row, weight_y = _between(top, bottom, vertical)
    strip = max(1, _STRIP_PIXELS // inside.shape[1])
    for start in range(0, inside.shape[0], strip):
        rows = slice(start, start + strip)
        upper = logits[row[rows]]
        lower = logits[np.minimum(row[rows] + 1, logits.shape[0] - 1)]
        lines = upper + (lower - upper) * weight_y[rows, None]
        slopes = np.diff(lines, axis=1, append=lines[:, -1:])
        inside[rows] = lines[:, column] + slopes[:, column] * weight_x > 0
    return Crop(left, top, inside)


def encode_crop(crop: Crop, height: int, width: int) -> Rle:
    """COCO run lengths of a (height, width) mask that is empty but for `crop`, without ever making it."""
    rows, columns = crop.inside.shape
    bordered = np.zeros((columns, rows + 2), dtype=np.int8)
    bordered[:, 1:-1] = crop.inside.T
    edges = np.diff(bordered, axis=1)
    offsets = (crop.left + np.arange(columns)) * height + crop.top
    column, row = np.nonzero(edges == 1)
    starts = offsets[column] + row
    column, row = np.nonzero(edges == -1)
    ends = offsets[column] + row
    # A run that reaches the bottom of the photo goes on at the top of the next column.
    joined = np.flatnonzero(ends[:-1] == starts[1:])
    starts, ends = np.delete(starts, joined + 1), np.delete(ends, joined)
    changes = np.stack([starts, ends], axis=1).reshape(-1)
    runs = np.diff(changes, prepend=0, append=height * width)
    if len(runs) > 1 and runs[-1] == 0:
        runs = runs[:-1]
    compressed = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": compressed["counts"].decode("ascii")}


def _pixels(low: float, high: float, end: int) -> tuple[int, int]:
    """The range of pixels whose centres lie in [low, high)."""
    first = int(np.clip(np.ceil(low - 0.5), 0, end))
    return first, max(first, int(np.clip(np.ceil(high - 0.5), 0, end)))


def _between(first: int, end: int, axis: Axis) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each pixel, the cell before it and the weight of the next one.

    At the photo's edge its outermost cells count alone: those of the padding say that nothing is there, which
    would take half a cell off every object that the edge of the photo cuts.
    """
    positions = np.clip(np.arange(first, end) * axis.step + axis.offset, axis.first, axis.last)
    before = positions.astype(np.intp)
    return before, (positions - before).astype(np.float32)
