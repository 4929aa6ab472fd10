"""A pinhole camera in the room.

World: metres, z up. Image: pixels, u to the right, v down, pixel centres at whole numbers. The direction of a
ray has unit length along the optical axis, so that distances along rays are depths.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin, tan

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Camera:
    """Where it stands, its axes (columns: right, down, forward), its focal length in pixels, its image size."""

    position: Floats
    axes: Floats
    focal: float
    width: int
    height: int

    def rays(self, u: Floats, v: Floats) -> Floats:
        """Ray directions, (3, n), through pixel positions u and v, (n,) each."""
        x = (u - np.float32((self.width - 1) / 2)) / np.float32(self.focal)
        y = (v - np.float32((self.height - 1) / 2)) / np.float32(self.focal)
        right, down, forward = self.axes.T
        result: Floats = right[:, None] * x + down[:, None] * y + forward[:, None]
        return result

    def project(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Pixel positions u and v and depths of world points, (3, n); behind the camera the depth is < 0.05."""
        x, y, z = self.axes.T @ (points - self.position[:, None])
        depth = np.maximum(z, 0.05)
        u = x / depth * self.focal + (self.width - 1) / 2
        v = y / depth * self.focal + (self.height - 1) / 2
        return u, v, z


def aim(
    position: tuple[float, float, float], yaw: float, pitch: float, roll: float, field: float, width: int, height: int
) -> Camera:
    """A camera at `position` that looks along +y turned by `yaw` to the right and `pitch` down (radians).

    `field` is the angle of view along the longer side of the image.
    """
    forward = np.array([sin(yaw) * cos(pitch), cos(yaw) * cos(pitch), -sin(pitch)])
    level = np.array([cos(yaw), -sin(yaw), 0.0])
    under = np.cross(forward, level)
    right = cos(roll) * level + sin(roll) * under
    down = np.cross(forward, right)
    axes = np.stack([right, down, forward], axis=1).astype(np.float32)
    focal = max(width, height) / 2 / tan(field / 2)
    return Camera(np.array(position, np.float32), axes, focal, width, height)


def handheld(rng: Generator, room: tuple[float, float, float], width: int, height: int) -> Camera:
    """Somebody who stands near the front wall of a room (width, depth, height) and photographs what is in it."""
    wide, deep, high = room
    x = rng.uniform(-0.42, 0.42) * wide
    y = rng.uniform(0.08, 0.7)
    z = min(rng.uniform(1.1, 1.95), high - 0.25)
    target = np.array([rng.uniform(-0.22, 0.22) * wide - 0.2 * x, deep * rng.uniform(0.55, 0.85)])
    yaw = float(np.arctan2(target[0] - x, target[1] - y))
    pitch = rng.uniform(0.06, 0.3) + (z - 1.1) * 0.22
    field = rng.uniform(52, 76) * pi / 180
    if max(width, height) < 1.15 * min(width, height):
        field = rng.uniform(48, 66) * pi / 180
    return aim((x, y, z), yaw, pitch, rng.normal(0, 0.015), field, width, height)
