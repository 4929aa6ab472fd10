"""From a network's coarse mask logits to an exact mask in the photo's pixels, one box at a time.

Logits are interpolated, and thresholded only then: the outline is as smooth as the network drew it, not a
staircase of its cells. Between two cells of a column the interpolated logits are a straight line, which crosses zero
once at most: so the pixels where a column's runs begin and end are computed, and no other pixel is ever looked at.
Time and memory are those of the network's cells times the box's columns, whatever the photo's height.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from stream_worker.geometry.letterbox import Axis, Letterbox
from stream_worker.geometry.masks import Rle


@dataclass(frozen=True, slots=True)
class Runs:
    """A mask of `height` x `width` pixels, by where it changes.

    `changes` (2 n) int64, rising: positions in column-major order (column * height + row) of the first pixel of each
    run and of the first one after it, in turn.
    """

    height: int
    width: int
    changes: NDArray[np.int64]

    @property
    def area(self) -> int:
        """Pixels inside."""
        return int((self.changes[1::2] - self.changes[::2]).sum())

    def rle(self) -> Rle:
        """As COCO's run lengths."""
        runs = np.diff(self.changes, prepend=0, append=self.height * self.width)
        if len(runs) > 1 and runs[-1] == 0:
            runs = runs[:-1]
        size = [self.height, self.width]
        compressed = coco.frPyObjects({"size": size, "counts": runs.tolist()}, *size)
        return {"size": size, "counts": compressed["counts"].decode("ascii")}


def full_resolution_mask(logits: NDArray[np.float32], box: Sequence[float], letterbox: Letterbox) -> Runs:
    """The object's mask inside its box, in the photo's pixels.

    Args:
        logits: (rows, columns) over the letterboxed square, padding included; positive is inside.
        box: x0, y0, x1, y1 in the photo's pixels. A pixel belongs to it when its centre does.
        letterbox: how the photo lies on the square.
    """
    height, width = letterbox.height, letterbox.width
    left, right = _pixels(box[0], box[2], width)
    top, bottom = _pixels(box[1], box[3], height)
    if left == right or top == bottom:
        return Runs(height, width, np.empty(0, dtype=np.int64))
    horizontal, vertical = letterbox.grid_axes(*logits.shape)
    first, last = (int(_positions(row, vertical)) for row in (top, bottom - 1))
    last = min(last + 1, vertical.last)
    # (columns of the box, cells from `first` to `last`): the logits at the columns' centres and the cells'.
    cells = logits[first : last + 1].T
    position = _positions(np.arange(left, right), horizontal)
    before = position.astype(np.intp)
    nearer = cells[before]
    beyond = cells[np.minimum(before + 1, len(cells) - 1)]
    lines = nearer + (beyond - nearer) * (position - before).astype(np.float32)[:, None]
    inside = lines > 0
    column, cell = np.nonzero(inside[:, 1:] != inside[:, :-1])
    here, next_one = lines[column, cell].astype(np.float64), lines[column, cell + 1].astype(np.float64)
    crossing = (first + cell + here / (here - next_one) - vertical.offset) / vertical.step
    row = np.where(next_one > 0, np.floor(crossing) + 1, np.ceil(crossing)).clip(top, bottom).astype(np.int64)
    starts = (left + np.arange(right - left, dtype=np.int64)) * height
    changes = [starts[column] + row, starts[inside[:, 0]] + top, starts[inside[:, -1]] + bottom]
    return Runs(height, width, _told_apart(np.concatenate(changes)))


def _told_apart(changes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rising, without those that undo each other: a run between two pixels, or one that goes on in the next column."""
    positions, times = np.unique(changes, return_counts=True)
    kept: NDArray[np.int64] = positions[times % 2 == 1]
    return kept


def _pixels(low: float, high: float, end: int) -> tuple[int, int]:
    """The range of pixels whose centres lie in [low, high)."""
    first = int(np.clip(np.ceil(low - 0.5), 0, end))
    return first, max(first, int(np.clip(np.ceil(high - 0.5), 0, end)))


def _positions(pixels: NDArray[np.integer] | int, axis: Axis) -> NDArray[np.float64]:
    """Where pixels lie among the cells' centres.

    At the photo's edge its outermost cells count alone: those of the padding say that nothing is there, which
    would take half a cell off every object that the edge of the photo cuts.
    """
    return np.clip(np.asarray(pixels) * axis.step + axis.offset, axis.first, axis.last)
