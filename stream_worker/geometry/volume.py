"""The size of an object: its oriented box (width, depth, height) and the volume that its surface encloses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A turned box must beat the unturned one by this share of its base: round objects fit any angle equally well, and
# noise would pick one.
_TURN_GAIN = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class OrientedBox:
    """A box: center (3,), rotation (3, 3) whose rows are the unit axes of width, depth and height (right-handed)."""

    center: Floats
    rotation: Floats
    width: float
    depth: float
    height: float

    def as_dict(self) -> dict[str, Any]:
        """Return the box as JSON-able values."""
        return {
            "center": self.center.tolist(),
            "rotation": self.rotation.tolist(),
            "width": self.width,
            "depth": self.depth,
            "height": self.height,
        }


def box_along(points: Floats, axes: Floats) -> OrientedBox:
    """Return the tightest box around `points` (N, 3) with the given `axes` (3, 3): rows width, depth, height."""
    along = points @ axes.T
    low, high = along.min(axis=0), along.max(axis=0)
    width, depth, height = (float(side) for side in high - low)
    return OrientedBox((low + high) / 2 @ axes, axes, width, depth, height)


def oriented_box(points: Floats, axes: Floats) -> OrientedBox:
    """Return the box around `points` (N, 3) that stands upright and has the smallest base.

    `axes` (3, 3) are unit rows: width, depth, height. Furniture stands on a floor: height stays along `axes[2]`, and
    the box turns about it only, by at most 45 degrees, so that width stays the side nearest to `axes[0]`. PCA would
    tilt the box, and turn it by where the points are dense. A side of the smallest rectangle lies along an edge of the
    convex hull (Freeman and Shapira 1975), so trying every edge is exact. The box stays unturned where turning
    would save less than 2 % of the base. Raises ValueError without points, or where one is not finite.
    """
    if len(points) == 0 or not np.isfinite(points).all():
        raise ValueError("an oriented box needs points, all finite")
    hull = _hull(points @ axes[:2].T)
    edges = np.roll(hull, -1, axis=0) - hull
    quarter = np.pi / 2
    angles = np.unique(np.arctan2(edges[:, 1], edges[:, 0]) % quarter)
    angles = np.where(angles > quarter / 2, angles - quarter, angles)
    across = hull @ np.stack((np.cos(angles), np.sin(angles)))
    along = hull @ np.stack((-np.sin(angles), np.cos(angles)))
    bases = np.ptp(across, axis=0) * np.ptp(along, axis=0)
    best = int(np.argmin(bases))
    if bases[best] >= (1 - _TURN_GAIN) * np.prod(np.ptp(hull, axis=0)):
        return box_along(points, axes)
    cos, sin = np.cos(angles[best]), np.sin(angles[best])
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return box_along(points, turn @ axes)


def between(front: Floats, back: Floats, cell: tuple[float, float]) -> float:
    """Return the volume between two height fields (rows, columns) over cells of `cell` = (width, height).

    Heights are cell means; a cell where back does not lie beyond front encloses nothing.
    """
    return float(np.clip(back - front, 0.0, None).sum() * cell[0] * cell[1])


def _hull(points: Floats) -> Floats:
    """Return the corners (M, 2) of the convex hull of `points` (N, 2), in order: quickhull (Eddy 1977)."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    first, last = points[order[0]], points[order[-1]]
    upper, lower = _beyond(points, first, last), _beyond(points, last, first)
    # Work through segments from a stack, not by recursion: points on a circle nest deeply.
    corners: list[Floats] = []
    stack = [(last, first, lower), (first, last, upper)]
    while stack:
        start, end, outside = stack.pop()
        if len(outside) == 0:
            corners.append(start)
            continue
        far = outside[np.argmax(_cross(end - start, outside - start))]
        stack.append((far, end, _beyond(outside, far, end)))
        stack.append((start, far, _beyond(outside, start, far)))
    return np.array(corners)


def _beyond(points: Floats, start: Floats, end: Floats) -> Floats:
    """Return the points clearly to the left of the line from `start` to `end`."""
    span = end - start
    # Points on the line but for rounding are no corners; without the margin a degenerate cloud would loop over them.
    margin = 1e-12 * float(np.abs(span).max()) * (float(np.abs(points).max()) if len(points) else 0.0)
    return points[_cross(span, points - start) > margin]


def _cross(span: Floats, offsets: Floats) -> Floats:
    """Return the signed areas (N,) that `span` (2,) makes with each of `offsets` (N, 2)."""
    areas: Floats = span[0] * offsets[:, 1] - span[1] * offsets[:, 0]
    return areas
