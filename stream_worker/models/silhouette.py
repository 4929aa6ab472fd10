"""The silhouette model: a 3D object from its mask alone, needing no weights and no GPU.

It stands where SAM 3D Objects stands on a machine with a GPU, and gives results of the same form. The mask is put
on the plane of the synthetic pinhole pointmap, seen from a camera turned to face the object (an object at the
photo's edge then has the size that it would have in the middle), and inflated by swept circles (`geometry/sweep.py`).

What it can know: the extent across the view, taken as that of the silhouette on the plane, so rays through one
object are taken as parallel. With the object's middle at depth 1, a sphere seen under the half angle a comes out
larger by 1 / cos(a): lengths by 0.6 % at 6 degrees and 3.5 % at 15, the volume by three times that. An upright
cylinder of radius r comes out higher by 1 / (1 - r), as the near half of its rim hides the far one. What it cannot
know, and sets by a stated rule: the depth (that of `sweep`), the back (mirrored, with the front's colours) and the
absolute size (unit: the depth of the pointmap's plane).

Frames: the Gaussians lie in the object's own frame (x right, y up, z towards the camera), centred, longest side 1. The
pose maps them to OpenCV's camera (x right, y down, z forward): camera = rotation * (scale * local) + translation. The
oriented box is in the camera's frame, and it and the volume are in the camera's unit.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_worker.geometry import gaussians, masks, pointmap, rotations, sweep, volume
from stream_worker.models.protocol import ModelFault

VERSION = "1"
FRAME = "object: x right, y up, z to viewer; pose and box: camera x right, y down, z forward (OpenCV)"
UNIT = "relative: depth of the pinhole plane"
VOLUME_METHOD = "swept circles"

# Lowest, highest and default value of each setting.
_SETTINGS = {"max_gaussians": (2, 2_000_000, 20_000), "grid": (16, 1024, 256)}

_OPACITY = 0.95
# Standard deviations in units of the samples' spacing: wide enough to close the surface, thin across it.
_SPREAD = 0.6
_THIN = 0.1

# The object's own axes, in those of the camera turned to face it.
_LOCAL = np.diag([1.0, -1.0, -1.0])


class Silhouette:
    """The model as a child process runs it. Deterministic: equal input gives equal bytes."""

    def __init__(self) -> None:
        self._settings = {name: default for name, (_, _, default) in _SETTINGS.items()}

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Take the defaults of the settings from `options` and say what this model is.

        `max_gaussians`: the most Gaussians an object gets; `grid`: cells along the longer side of the grid on which a
        mask is inflated. Others are passed over. Raises ModelFault "bad_options" for a value out of bounds.
        """
        try:
            self._settings = _settings(options, self._settings)
        except ValueError as error:
            raise ModelFault("bad_options", str(error)) from error
        return {"model": "silhouette", "version": VERSION, "weights_sha256": None, "settings": self._settings}

    def warm_up(self) -> None:
        """Reconstruct a small square, so that the first task finds everything imported."""
        photo = np.zeros((8, 8, 3), np.uint8)
        reconstruct(photo, masks.encode(np.pad(np.ones((4, 4), bool), 2)), self._settings)

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Reconstruct the object under `task["mask"]` in the raw photo at `task["pixels"]`; `payload` is not used.

        Returns the header (see the module's docstring for frames and units) and the PLY file. Raises ModelFault
        with code "empty_mask" or "bad_geometry" for a fault of the input, OSError where the photo can't be read.
        """
        started = time.perf_counter()
        width, height, path = task["width"], task["height"], task["pixels"]
        try:
            if Path(path).stat().st_size != width * height * 3:
                raise ValueError(f"the photo's file does not hold {width} x {height} pixels")
            photo = np.memmap(path, np.uint8, "r", shape=(height, width, 3))
            header, ply = reconstruct(photo, task["mask"], _settings(task.get("settings") or {}, self._settings))
        except ValueError as error:
            raise ModelFault("bad_geometry", str(error)) from error
        return header | {"times": {"infer_s": time.perf_counter() - started}}, ply


def reconstruct(
    photo: NDArray[np.uint8], mask: dict[str, Any] | masks.Rle, settings: dict[str, int]
) -> tuple[dict[str, Any], bytes]:
    """Return header and PLY file of the object under `mask` (run lengths) in `photo` (H, W, 3) uint8 RGB.

    Raises ModelFault "empty_mask", and ValueError for a mask that is malformed or of another size than the photo.
    """
    rle = masks.validate(mask)
    height, width = photo.shape[:2]
    if rle["size"] != [height, width]:
        raise ValueError(f"mask: its size is {rle['size']}, but the photo's is {[height, width]}")
    x0, y0, x1, y1 = masks.box(rle)
    if x0 == x1:
        raise ModelFault("empty_mask", "the mask holds no pixel")

    camera = pointmap.Pinhole.of(width, height)
    middle = camera.points(np.array((x0 + x1 - 1) / 2), np.array((y0 + y1 - 1) / 2))
    distance, view = float(np.linalg.norm(middle)), pointmap.facing(middle)
    grid, u, v, corner, cell = _resample(masks.decode(rle), (x0, y0, x1, y1), camera, view, settings["grid"])

    # On the plane that faces the camera and holds the object's middle, a slope of 1 is a length of `distance`.
    sides = (cell[0] * distance, cell[1] * distance)
    solid = sweep.inflate(grid, sides, samples=settings["max_gaussians"] // 2)
    offset = np.array([corner[0] * distance, corner[1] * distance, distance])
    centre = (solid.low + solid.high) / 2
    scale = float((solid.high - solid.low).max())
    row, column = solid.cells.T
    colours = photo[v[row, column], u[row, column]]
    model = _gaussians(
        (solid.positions - centre) @ _LOCAL / scale, solid.normals @ _LOCAL, colours, solid.spacing / scale
    )
    gaussians.check(model)

    ends = (np.stack((solid.low, solid.high)) + offset) @ view
    box = volume.box_along(ends, np.stack((view[0], view[2], -view[1])))
    header = {
        "gaussians": len(model),
        "frame": FRAME,
        "unit": UNIT,
        "oriented_box": box.as_dict(),
        "volume": volume.between(-solid.thickness / 2, solid.thickness / 2, sides),
        "volume_method": VOLUME_METHOD,
        "pose": {
            "rotation": rotations.from_matrix(view.T @ _LOCAL).tolist(),
            "translation": ((centre + offset) @ view).tolist(),
            "scale": scale,
        },
    }
    return header, gaussians.to_ply(model)


def _resample(
    mask: NDArray[np.bool_],
    box: tuple[int, int, int, int],
    camera: pointmap.Pinhole,
    view: NDArray[np.float64],
    longest: int,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], tuple[float, float], tuple[float, float]]:
    """Resample `mask` (H, W) inside `box` to the image plane (depth 1) of the camera turned by `view`.

    Returns the grid (rows, columns) bool, at most `longest` cells a side and no finer than the photo; for each cell the
    pixel (u, v) that it was read from; the grid's low corner and the sides of a cell, in slopes (x, y).
    """
    x0, y0, x1, y1 = box
    edges_u, edges_v = np.meshgrid([x0 - 0.5, x1 - 0.5], [y0 - 0.5, y1 - 0.5])
    corners = camera.points(edges_u, edges_v).reshape(-1, 3) @ view.T
    slopes = corners[:, :2] / corners[:, 2:]
    low, extent = slopes.min(axis=0), np.ptp(slopes, axis=0)
    side = float(extent.max()) / min(longest, max(x1 - x0, y1 - y0))
    columns, rows = (max(1, round(float(length) / side)) for length in extent)
    cell = (float(extent[0]) / columns, float(extent[1]) / rows)

    x, y = np.meshgrid(low[0] + (np.arange(columns) + 0.5) * cell[0], low[1] + (np.arange(rows) + 0.5) * cell[1])
    at_u, at_v = camera.pixels(np.stack((x, y, np.ones_like(x)), axis=-1) @ view)
    u = np.clip(np.rint(at_u).astype(np.int64), x0, x1 - 1)
    v = np.clip(np.rint(at_v).astype(np.int64), y0, y1 - 1)
    grid = mask[v, u] & (at_u > x0 - 0.5) & (at_u < x1 - 0.5) & (at_v > y0 - 0.5) & (at_v < y1 - 0.5)
    if not grid.any():
        # Every part is thinner than a cell and slipped between their middles: keep all cells that it touches.
        grid, u, v = _touched(mask[y0:y1, x0:x1], (x0, y0), camera, view, low, cell, (rows, columns))
    return grid, u, v, (float(low[0]), float(low[1])), cell


def _touched(
    crop: NDArray[np.bool_],
    origin: tuple[int, int],
    camera: pointmap.Pinhole,
    view: NDArray[np.float64],
    low: NDArray[np.float64],
    cell: tuple[float, float],
    shape: tuple[int, int],
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Return the grid of cells that hold a pixel of `crop`, and for each such cell one of its pixels (u, v)."""
    at_v, at_u = np.nonzero(crop)
    at_u, at_v = at_u + origin[0], at_v + origin[1]
    points = camera.points(at_u.astype(np.float64), at_v.astype(np.float64)) @ view.T
    column, row = (
        np.clip(((points[:, axis] / points[:, 2] - low[axis]) / cell[axis]).astype(np.int64), 0, shape[1 - axis] - 1)
        for axis in (0, 1)
    )
    grid, u, v = np.zeros(shape, bool), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    grid[row, column], u[row, column], v[row, column] = True, at_u, at_v
    return grid, u, v


def _gaussians(
    positions: NDArray[np.float64], normals: NDArray[np.float64], colours: NDArray[np.uint8], spacing: float
) -> gaussians.Gaussians:
    """Return flat Gaussians on a front surface (N samples) and on its mirror image in z, in the object's frame."""
    mirror = np.array([1.0, 1.0, -1.0])
    scales = np.log(spacing * np.array([_SPREAD, _SPREAD, _THIN]))
    count = 2 * len(positions)
    return gaussians.Gaussians(
        positions=np.concatenate((positions, positions * mirror)).astype(np.float32),
        sh_dc=np.tile(gaussians.rgb_to_sh_dc(colours), (2, 1)),
        opacities=np.full(count, np.log(_OPACITY / (1 - _OPACITY)), np.float32),
        scales=np.tile(scales.astype(np.float32), (count, 1)),
        rotations=rotations.from_normals(np.concatenate((normals, normals * mirror))).astype(np.float32),
    )


def _settings(given: dict[str, Any], defaults: dict[str, int]) -> dict[str, int]:
    """Return `defaults` with those that `given` names put in their place. Raises ValueError out of bounds."""
    merged = dict(defaults)
    for name, (lowest, highest, _) in _SETTINGS.items():
        value = given.get(name, merged[name])
        if type(value) is not int or not lowest <= value <= highest:
            raise ValueError(f"silhouette: {name} must be a whole number from {lowest} to {highest}, not {value!r}")
        merged[name] = value
    return merged
