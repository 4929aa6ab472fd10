"""Inflation of a flat mask into a closed solid by swept circles.

The solid is a generalised cylinder, as in Binford, "Visual perception by computer" (1971), and Nevatia and Binford,
"Description and recognition of curved objects" (1977), with the outlines in the image setting the circles'
diameters, as in Chen et al., "3-Sweep" (SIGGRAPH Asia 2013): a straight axis in the plane of the mask, along the
mask's longer side (upright for a tall mask, level for a wide one), and across it, at every step, a circle on each
stretch of the mask.

So the depth of every cross-section is its extent across the axis. That is exact for spheres and for cylinders seen
from the side. One view cannot tell a box from a cylinder: a box of width w and height h gets the depth min(w, h) and a
round cross-section, hence pi / 4 of w * h * min(w, h). Soap-film (Poisson) and medial-axis inflation were left
aside because both round the ends off: a cylinder twice as high as wide loses a sixth of its volume.

Holes: the circles span them, then the hole is cut through along the view. Parts: each is swept by itself about the
same plane. A mask that is cut off by the photo's border ends flat there; nothing is invented beyond it.

Frame: x along the columns, y along the rows (down), both from the grid's top left corner, z away from the
viewer, 0 on the plane of the mask. Lengths are in the unit of the cell's sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Samples kept for the faces across the axis; a comb-like mask has far more of them than any surface needs.
_MAX_FACE_SAMPLES = 200_000

# Fractions of the plastic number: consecutive multiples, taken modulo 1, fill a plane evenly (Roberts 2018, the R2
# sequence), so the samples with the smallest values are spread evenly over the surface.
_R2 = (0.7548776662466927, 0.5698402909980532)


@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """An inflated mask.

    Samples of its front half; the back half is its mirror image in z: positions (N, 3) with z <= 0, unit outward
    normals (N, 3), cells (N, 2), row and column of the mask's cell in front of each, and the mean spacing of the
    samples. thickness (rows, columns) is the mean extent along z over each cell, 0 outside the mask. low and high
    (3,) are the solid's extent.
    """

    positions: Floats
    normals: Floats
    cells: Ints
    spacing: float
    thickness: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """Samples of one part of the surface, as in Solid; order (N,) says which to keep first, area is theirs together."""

    positions: Floats
    normals: Floats
    cells: Ints
    order: Floats
    area: float


def inflate(mask: Mask, cell: tuple[float, float], *, samples: int) -> Solid:
    """Inflate `mask` (rows, columns) whose cells measure `cell` = (width, height).

    The front gets at most `samples` samples. Deterministic. Raises ValueError for a mask without a cell.
    """
    if mask.ndim != 2 or not mask.any():
        raise ValueError("an empty mask has no solid")
    height, width = mask.shape[0] * cell[1], mask.shape[1] * cell[0]
    if height >= width:
        return _inflate_upright(mask, cell, samples)
    solid = _inflate_upright(np.ascontiguousarray(mask.T), (cell[1], cell[0]), samples)
    swap = [1, 0, 2]
    return Solid(
        positions=solid.positions[:, swap],
        normals=solid.normals[:, swap],
        cells=solid.cells[:, ::-1],
        spacing=solid.spacing,
        thickness=solid.thickness.T,
        low=solid.low[swap],
        high=solid.high[swap],
    )


def fill_holes(mask: Mask) -> Mask:
    """Return `mask` (rows, columns) with every hole filled: background that no path over cell sides leads out of."""
    outside = np.pad(~mask, 1, constant_values=True)
    # Number the stretches of background, row by row, and join those that touch until each carries the least number
    # of its region. Halving the paths each round keeps a maze from taking as many rounds as it has turns.
    first = outside & ~np.pad(outside, ((0, 0), (1, 0)))[:, :-1]
    stretch = np.cumsum(first).reshape(outside.shape) - 1
    touch = outside[1:] & outside[:-1]
    above, below = stretch[:-1][touch], stretch[1:][touch]
    region = np.arange(int(first.sum()))
    while True:
        least = np.minimum(region[above], region[below])
        joined = region.copy()
        for side in (above, below):
            np.minimum.at(joined, region[side], least)
            np.minimum.at(joined, side, least)
        joined = joined[joined]
        if np.array_equal(joined, region):
            break
        region = joined
    filled: Mask = ~(outside & (region[stretch] == 0))[1:-1, 1:-1]
    return filled


def _inflate_upright(mask: Mask, cell: tuple[float, float], samples: int) -> Solid:
    """Inflate with the axis along the rows' stacking."""
    width, height = cell
    filled = fill_holes(mask)
    rises = np.diff(np.pad(filled, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(rises == 1)
    stops = np.nonzero(rises == -1)[1]
    centres, radii = (starts + stops) / 2 * width, (stops - starts) / 2 * width
    of_cell = np.clip(np.cumsum(rises[:, :-1] == 1).reshape(mask.shape) - 1, 0, None)
    radius = np.where(mask, radii[of_cell], 0.0)
    offset = np.where(mask, (np.arange(mask.shape[1]) + 0.5) * width - centres[of_cell], 0.0)
    squares = np.clip(radius**2 - offset**2, 0.0, None)

    thickness = np.where(mask, 2 / width * _half_disc(offset - width / 2, offset + width / 2, radius), 0.0)
    nearest = np.clip(np.abs(offset) - width / 2, 0.0, None)
    depth = float(np.sqrt(np.clip(radius**2 - nearest**2, 0.0, None).max()))
    used_rows, used_columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))

    parts = (
        _rings(mask, squares, rows, centres, radii, cell),
        _ends(squares, offset, cell),
        _hole_sides(mask, filled, squares, cell),
    )
    positions, normals, cells, order = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("positions", "normals", "cells", "order")
    )
    keep = np.sort(np.argsort(order, kind="stable")[:samples])
    return Solid(
        positions=positions[keep],
        normals=normals[keep] / np.linalg.norm(normals[keep], axis=1, keepdims=True),
        cells=cells[keep],
        spacing=float(np.sqrt(sum(part.area for part in parts) / len(keep))),
        thickness=thickness,
        low=np.array([used_columns[0] * width, used_rows[0] * height, -depth]),
        high=np.array([(used_columns[-1] + 1) * width, (used_rows[-1] + 1) * height, depth]),
    )


def _half_disc(left: Floats, right: Floats, radius: Floats) -> Floats:
    """Return the area of the upper half of a disc about 0 between x = left and x = right."""
    safe = np.where(radius > 0, radius, 1.0)

    def below(x: Floats) -> Floats:
        x = np.clip(x, -radius, radius)
        half: Floats = (x * np.sqrt(np.clip(radius**2 - x**2, 0.0, None)) + radius**2 * np.arcsin(x / safe)) / 2
        return half

    return below(right) - below(left)


def _rings(
    mask: Mask, squares: Floats, rows: Ints, centres: Floats, radii: Floats, cell: tuple[float, float]
) -> _Samples:
    """Sample the half circle of every stretch of a row evenly: the surface along the axis."""
    width, height = cell
    counts = np.maximum(2, np.ceil(np.pi * radii / width)).astype(np.int64)
    stretch, index = _repeat(counts)
    row, radius = rows[stretch], radii[stretch]
    # Rows begin at different angles, else samples would line up along the axis.
    angle = np.pi * (index + 0.1 + 0.8 * (row * _R2[1] % 1)) / counts[stretch]
    x, z = radius * np.cos(angle), -radius * np.sin(angle)
    # Look half a cell inwards, so that the rim takes the object's colour and not the background's.
    column = ((centres[stretch] + (radius - width / 2) * np.cos(angle)) / width).astype(np.int64)
    column = np.minimum(column, mask.shape[1] - 1)
    slope = np.gradient(np.pad(squares, ((1, 1), (0, 0))), height, axis=0)[1:-1]
    # The surface is z^2 = squares(x, y): its normal is the gradient of z^2 - squares.
    normals = np.stack((x, -slope[row, column] / 2, z), axis=1)
    seen = mask[row, column]
    return _Samples(
        positions=np.stack((centres[stretch] + x, (row + 0.5) * height, z), axis=1)[seen],
        normals=normals[seen],
        cells=np.stack((row, column), axis=1)[seen],
        order=((index * _R2[0] + row * _R2[1]) % 1)[seen],
        area=float((np.pi * radius / counts[stretch] * height)[seen].sum()),
    )


def _ends(squares: Floats, offset: Floats, cell: tuple[float, float]) -> _Samples:
    """Sample the faces across the axis, where one row's cross-section reaches beyond the next one's."""
    width, height = cell
    padded, shifts = np.pad(squares, ((1, 1), (0, 0))), np.pad(offset, ((1, 1), (0, 0)))
    before, after = padded[:-1], padded[1:]
    row, column = np.nonzero(before != after)
    falls = (before > after)[row, column]
    high = np.sqrt(np.maximum(before, after)[row, column])
    low = np.sqrt(np.minimum(before, after)[row, column])
    step = max(width, float((high - low).sum()) / _MAX_FACE_SAMPLES)
    # Faces lower than a step get a sample now and then, as often as their area asks for.
    dither = (row * _R2[0] + column * _R2[1]) % 1
    face, index, z = _stack(low, high, step, dither)
    row, column, falls = row[face], column[face], falls[face]
    owner = np.where(falls, row - 1, row)
    drop = np.abs(before - after)[row, column] / height
    return _Samples(
        positions=np.stack(((column + 0.5) * width, row * height, -z), axis=1),
        normals=np.stack((shifts[owner + 1, column], np.where(falls, drop, -drop) / 2, -z), axis=1),
        cells=np.stack((owner, column), axis=1),
        order=((index + 0.5) * _R2[0] + column * _R2[1] + row * 0.5) % 1,
        area=len(face) * width * step,
    )


def _hole_sides(mask: Mask, filled: Mask, squares: Floats, cell: tuple[float, float]) -> _Samples:
    """Sample the faces of holes along the axis; those across it are among the ends."""
    width, height = cell
    inner = filled[:, :-1] & filled[:, 1:] & (mask[:, :-1] != mask[:, 1:])
    row, column = np.nonzero(inner)
    falls = mask[row, column]
    owner = np.where(falls, column, column + 1)
    tops = np.sqrt(squares[row, owner])
    step = max(height, float(tops.sum()) / _MAX_FACE_SAMPLES)
    dither = (row * _R2[0] + column * _R2[1]) % 1
    face, index, z = _stack(np.zeros_like(tops), tops, step, dither)
    row, column, falls, owner = row[face], column[face], falls[face], owner[face]
    sideways = np.where(falls, 1.0, -1.0)
    return _Samples(
        positions=np.stack(((column + 1) * width, (row + 0.5) * height, -z), axis=1),
        normals=np.stack((sideways, np.zeros_like(z), np.zeros_like(z)), axis=1),
        cells=np.stack((row, owner), axis=1),
        order=((index + 0.5) * _R2[0] + row * _R2[1] + column * 0.5) % 1,
        area=len(face) * height * step,
    )


def _stack(low: Floats, high: Floats, step: float, dither: Floats) -> tuple[Ints, Ints, Floats]:
    """Return for each of the heights between `low` and `high` (N,), a `step` apart: its face, its index, itself."""
    counts = np.floor((high - low) / step + dither).astype(np.int64)
    face, index = _repeat(counts)
    heights: Floats = low[face] + (index + 0.5) * (high - low)[face] / counts[face]
    return face, index, heights


def _repeat(counts: Ints) -> tuple[Ints, Ints]:
    """Return for `counts` = [2, 3] the pair [0, 0, 1, 1, 1] and [0, 1, 0, 1, 2]."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
