"""How much space a closed surface encloses, where all that is known of it is a cloud of points near it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

CELLS = 64
"""Cells along the longest side, at most."""

_LEAST = 8
_POINTS_PER_CELL = 20
"""Points for each cell of a square of `cells` x `cells`. A cube's surface has six of those, and a random sample leaves
a cell empty that expects three points with a chance of 5 %: such holes are closed by the rule."""


def volume_of_shell(points: NDArray[Any]) -> float:
    """Return the volume that a surface encloses, of which `points` (N, 3) are dense samples; in their unit cubed.

    Rule: a grid of cubes is laid over the points, up to 64 along their longest side, and fewer where the points are too
    few to leave no holes in so fine a shell: sqrt(N / 20), at least 8. A cube that holds a point is
    *shell*. A cube is *inside* where there is shell on both sides of it along each of the three axes: so small holes
    in the surface leak nothing, a closed cupboard is full, and the space under a table or in an open box is not
    counted. The surface runs through the middle of the shell's cubes on average: these count half.

    Ellipsoids come out within 4 % from 60,000 points, and within 16 % from 3,000 (tests/unit/geometry/test_solid.py).
    Raises ValueError without points, or where one is not finite.
    """
    if len(points) == 0 or not np.isfinite(points).all():
        raise ValueError("a volume needs points, all finite")
    low = points.min(axis=0)
    longest = float(np.ptp(points, axis=0).max())
    if longest == 0:
        return 0.0
    cells = min(CELLS, max(_LEAST, int((len(points) / _POINTS_PER_CELL) ** 0.5)))
    side = longest / cells
    at = np.minimum(((points - low) / side).astype(np.int64), cells - 1)
    shell = np.zeros((cells, cells, cells), np.bool_)
    shell[at[:, 0], at[:, 1], at[:, 2]] = True
    inside = enclosed(shell) & ~shell
    return (float(inside.sum()) + 0.5 * float(shell.sum())) * side**3


def enclosed(shell: Bools) -> Bools:
    """Return the cells of `shell` (A, B, C) that have a shell cell at or before, and at or after them, on each axis."""
    result = np.ones_like(shell)
    for axis in range(shell.ndim):
        before = np.logical_or.accumulate(shell, axis=axis)
        after = np.flip(np.logical_or.accumulate(np.flip(shell, axis), axis=axis), axis)
        result &= before & after
    return result
