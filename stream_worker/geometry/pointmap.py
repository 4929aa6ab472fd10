"""The synthetic pinhole camera and its flat pointmap: where a photo's pixels lie in space when no depth is known.

Every pixel is put on the plane Z = 1 of a camera whose focal length is guessed from the photo's longer side:
X = (u - cx) / f * Z, Y = (v - cy) / f * Z, f = 0.9 * max(H, W), cx = (W - 1) / 2, cy = (H - 1) / 2. Recovering the
camera from a depth network's output gives NaN or Inf now and then; this never does.

Frame: OpenCV's camera (x right, y down, z forward), right-handed. Unit: the depth of that plane, so every length
derived from it is relative; an absolute size needs another source. Integer (u, v) are pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_Float = TypeVar("_Float", bound=np.floating[Any])

FOCAL_PER_SIDE = 0.9
"""Focal length in pixels per pixel of the photo's longer side: a 58 degree view across it."""


@dataclass(frozen=True, slots=True)
class Pinhole:
    """A pinhole camera: focal length and principal point (cx, cy) in pixels."""

    focal: float
    cx: float
    cy: float

    @classmethod
    def of(cls, width: int, height: int) -> Pinhole:
        """Return the camera assumed for a photo of `width` x `height` pixels. Raises ValueError below 1 x 1."""
        if width < 1 or height < 1:
            raise ValueError(f"a photo has at least one pixel, not {width} x {height}")
        return cls(FOCAL_PER_SIDE * max(width, height), (width - 1) / 2, (height - 1) / 2)

    def points(self, u: Floats, v: Floats) -> Floats:
        """Return (..., 3) points on the plane Z = 1 for pixel coordinates u and v of one shape (...)."""
        return np.stack(((u - self.cx) / self.focal, (v - self.cy) / self.focal, np.ones_like(u)), axis=-1)

    def pixels(self, points: Floats) -> tuple[Floats, Floats]:
        """Return pixel coordinates (u, v) of (..., 3) points in front of the camera."""
        depth = points[..., 2]
        u = points[..., 0] / depth * self.focal + self.cx
        v = points[..., 1] / depth * self.focal + self.cy
        return u, v


def pointmap(width: int, height: int) -> NDArray[np.float32]:
    """Return the flat pointmap of a photo, (height, width, 3) float32, in OpenCV's camera frame."""
    camera = Pinhole.of(width, height)
    points = np.ones((height, width, 3), np.float32)
    points[..., 0] = (np.arange(width) - camera.cx) / camera.focal
    points[..., 1] = ((np.arange(height) - camera.cy) / camera.focal)[:, None]
    return points


def to_pytorch3d(points: NDArray[_Float]) -> NDArray[_Float]:
    """Turn (..., 3) points from OpenCV's camera frame into PyTorch3D's (x left, y up, z forward), or back.

    It is half a turn about z. SAM 3D Objects does it for the pointmaps of its own depth network, but not for one
    that it is given.
    """
    return points * np.array([-1, -1, 1], points.dtype)


def facing(point: Floats) -> Floats:
    """Return the rotation (3, 3) whose rows are the axes right, down, forward of a camera turned to face `point`.

    The turned camera stands where the first one does and does not roll: its right stays level. Rows are unit
    vectors in the first camera's frame, so `facing(p) @ q` is q seen by the turned camera.
    """
    forward = point / np.linalg.norm(point)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    return np.stack((right, np.cross(forward, right), forward))
