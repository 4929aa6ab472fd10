"""How much space a closed surface encloses, where all that is known of it is a cloud of points near it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]

CELLS = 64
"""Cells along the longest side. The error of a smooth body is a few per cent: see `volume_of_shell`."""


def volume_of_shell(points: NDArray[Any], cells: int = CELLS) -> float:
    """Return the volume that a surface encloses, of which `points` (N, 3) are dense samples; in their unit cubed.

    Rule: a grid of cubes is laid over the points, `cells` along their longest side. A cube that holds a point is
    *shell*. A cube is *inside* where there is shell on both sides of it along each of the three axes: so small holes
    in the surface leak nothing, a closed cupboard is full, and the space under a table or in an open box is not
    counted. The surface runs through the middle of the shell's cubes on average: these count half.

    The samples must lie closer together than a cube's side, or the shell has gaps (which "both sides" forgives as long
    as they are no larger than the shell itself). Raises ValueError without points, or where one is not finite.
    """
    if len(points) == 0 or not np.isfinite(points).all():
        raise ValueError("a volume needs points, all finite")
    low = points.min(axis=0)
    longest = float(np.ptp(points, axis=0).max())
    if longest == 0:
        return 0.0
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
