"""A reconstructed object as the report's 3D view takes it: points, colours and the oriented box, y up."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_worker.demo.table import length
from stream_worker.events import Geometry
from stream_worker.geometry import gaussians, rotations

POINTS = 4000
"""Most points of one view: enough to look solid, few enough for a phone."""

FAINT = -2.2
"""Logit of the opacity (0.1) below which a Gaussian hardly shows."""

Floats = NDArray[np.float64]

# A box's edges as pairs of corners; corner k has sign bits (width, depth, height) = (k & 1, k & 2, k & 4).
_EDGES = [(a, a | bit) for bit in (1, 2, 4) for a in range(8) if not a & bit]


def view(ply: bytes, geometry: Geometry, points: int = POINTS) -> dict[str, Any]:
    """What the page needs to draw one object, ready for JSON.

    `xyz`: base64 of little-endian float32 (n, 3), in the unit of the geometry, around the box's centre, x right, y up,
    z to the viewer; `rgb`: base64 of uint8 (n, 3); `box`: (12, 2, 3) the ends of its edges; `sizes`: width, depth
    and height with the place of each label. Raises ValueError for a PLY or a geometry with no finite points.
    """
    model = gaussians.from_ply(ply)
    gaussians.check(model)
    chosen = _sample(model, points)
    pose, box = geometry.pose, geometry.oriented_box
    quaternion = np.array(pose.rotation, np.float64)
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite(length) or length == 0:
        raise ValueError("the pose's rotation is no quaternion")
    turn = rotations.to_matrix(quaternion / length)
    camera = pose.scale * (model.positions[chosen].astype(np.float64) @ turn.T) + np.array(pose.translation)
    centre, up = np.array(box.center, np.float64), _upright(geometry.frame)
    xyz = (camera - centre) * up
    corners = _corners(np.array([box.width, box.depth, box.height]), np.array(box.rotation, np.float64)) * up
    if not (np.isfinite(xyz).all() and np.isfinite(corners).all()):
        raise ValueError("the geometry holds a value that is not finite")
    return {
        "xyz": base64.b64encode(xyz.astype("<f4").tobytes()).decode("ascii"),
        "rgb": base64.b64encode(gaussians.sh_dc_to_rgb(model.sh_dc[chosen]).tobytes()).decode("ascii"),
        "box": [[_rounded(corners[a]), _rounded(corners[b])] for a, b in _EDGES],
        "sizes": _size_labels(corners, (box.width, box.depth, box.height)),
    }


def _sample(model: gaussians.Gaussians, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` Gaussians that show, the same for the same model."""
    shown = np.flatnonzero(model.opacities >= FAINT)
    if not shown.size:
        shown = np.arange(len(model))
    if shown.size <= most:
        return shown
    return np.sort(np.random.default_rng(0).choice(shown, most, replace=False))


def _upright(frame: str) -> Floats:
    """The signs that turn the camera frame into x right, y up, z to the viewer."""
    return np.array([-1.0, 1.0, -1.0] if "pytorch3d" in frame.lower() else [1.0, -1.0, -1.0])


def _corners(size: Floats, axes: Floats) -> Floats:
    signs = np.array([[(k >> bit & 1) - 0.5 for bit in range(3)] for k in range(8)])
    corners: Floats = (signs * size) @ axes
    return corners


def _size_labels(corners: Floats, sizes: tuple[float, float, float]) -> list[dict[str, Any]]:
    """One label for each of width, depth and height, at the middle of the edge that is nearest the viewer."""
    labels = []
    for name, size, bit in zip("wdh", sizes, (1, 2, 4), strict=True):
        middles = [(corners[a] + corners[b]) / 2 for a, b in _EDGES if b == a | bit]
        # Low, in front and to the right: where the first look falls, and nothing of the object is in the way.
        nearest = max(middles, key=lambda point: float(point @ np.array([0.7, -0.6, 0.8])))
        labels.append({"text": f"{name} {length(size)}", "at": _rounded(nearest)})
    return labels


def _rounded(point: Floats) -> list[float]:
    return [float(f"{value:.5g}") for value in point]
