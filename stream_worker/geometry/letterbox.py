"""Where a photo lies on the square that a network looks at, and the way back to the photo's own pixels.

Coordinates are continuous, (0, 0) at the outer corner of the first pixel and (width, height) at that of the
last; pixel i has its centre at i + 0.5. cv2.resize and torch's interpolate (align_corners=False) see it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Axis(NamedTuple):
    """Pixel i of the photo lies at i * step + offset of the grid, where whole numbers are the cells' centres."""

    step: float
    offset: float
    first: int
    """The first cell whose centre is on the photo and not on the padding."""
    last: int
    """The last such cell."""


@dataclass(frozen=True, slots=True)
class Letterbox:
    """A photo of width x height pixels, resized without distortion to the middle of a size x size square.

    Sides and padding are rounded as ultralytics' `LetterBox` rounds them, so that a network sees what it saw
    in training. The rounded sides are why the two axes have slightly different scales.
    """

    width: int
    height: int
    size: int

    @property
    def inner(self) -> tuple[int, int]:
        """(width, height) of the resized photo, at least 1 x 1."""
        scale = min(self.size / self.width, self.size / self.height)
        return max(round(self.width * scale), 1), max(round(self.height * scale), 1)

    @property
    def origin(self) -> tuple[int, int]:
        """(left, top) of the resized photo in the square."""
        inner_width, inner_height = self.inner
        return round((self.size - inner_width) / 2 - 0.1), round((self.size - inner_height) / 2 - 0.1)

    def boxes_to_photo(self, boxes: NDArray[np.floating]) -> NDArray[np.float64]:
        """Boxes (n, 4) as x0, y0, x1, y1 in the square, in the photo's pixels, clipped to the photo."""
        (inner_width, inner_height), (left, top) = self.inner, self.origin
        scale = np.array([self.width / inner_width, self.height / inner_height] * 2)
        moved = (np.asarray(boxes, dtype=np.float64) - np.array([left, top] * 2)) * scale
        inside: NDArray[np.float64] = np.clip(moved, 0.0, np.array([self.width, self.height] * 2, dtype=np.float64))
        return inside

    def grid_axes(self, rows: int, columns: int) -> tuple[Axis, Axis]:
        """How the photo's columns and rows lie on a grid over the square, such as a network's mask prototypes."""
        (inner_width, inner_height), (left, top) = self.inner, self.origin
        return (
            _axis(self.width, inner_width, left, columns / self.size),
            _axis(self.height, inner_height, top, rows / self.size),
        )


def _axis(full: int, inner: int, start: int, cells_per_pixel: float) -> Axis:
    step = inner / full * cells_per_pixel
    begin, end = start * cells_per_pixel, (start + inner) * cells_per_pixel
    first = ceil(begin - 0.5)
    return Axis(step, begin + step / 2 - 0.5, first, max(first, ceil(end - 0.5) - 1))
