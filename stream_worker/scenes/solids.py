"""Convex solids that rays can hit: boxes, rounded boxes, conical frusta and ellipsoids.

Frame: world metres, z up. Every solid has a centre, a rotation (columns are its local axes in world
coordinates) and half sizes along its local axes. Arrays of points and directions are planar, (3, n) float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from stream_worker.scenes.materials import Material

Floats = npt.NDArray[np.float32]

MARCH_STEPS = 7
MARCH_MISS = np.float32(0.003)
"""Metres. A march that is further away than this after its last step has missed the rounded box."""


class Shape(IntEnum):
    """What a solid is."""

    BOX = 0
    ROUNDED = 1
    FRUSTUM = 2
    ELLIPSOID = 3


@dataclass(frozen=True, slots=True)
class Solid:
    """One convex piece of a scene.

    `radius` is the rounding of a ROUNDED box, the visual bevel of a BOX (normals only). A FRUSTUM stands along
    its local z, with radius `half[0]` at the bottom and `top` at the top.
    """

    shape: Shape
    centre: Floats
    axes: Floats
    half: Floats
    material: Material
    radius: float = 0.0
    top: float = 0.0
    owner: int = 0
    """Number of the object that it belongs to; 0 for the room and its clutter."""
    bounds: Floats = field(init=False)
    """Half sizes of the local box around the solid."""

    def __post_init__(self) -> None:
        bounds = self.half
        if self.shape is Shape.FRUSTUM:
            widest = max(float(self.half[0]), self.top)
            bounds = np.array([widest, widest, self.half[2]], np.float32)
        object.__setattr__(self, "bounds", bounds)

    def corners(self) -> Floats:
        """The eight corners of its box in world coordinates, (3, 8)."""
        return self.axes @ (CORNERS * self.bounds[:, None]) + self.centre[:, None]


CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32).T.copy()


def hit(solid: Solid, origin: Floats, direction: Floats) -> Floats:
    """Distances along rays to where they enter the solid, in units of the direction's length; inf for a miss.

    `origin` and `direction` are in the solid's local frame, (3, n) or (3, 1) each. Rays that start inside miss.
    """
    if solid.shape is Shape.BOX:
        return _hit_box(origin, direction, solid.half)
    if solid.shape is Shape.ROUNDED:
        return _hit_rounded(origin, direction, solid.half, solid.radius)
    if solid.shape is Shape.ELLIPSOID:
        return _hit_ellipsoid(origin, direction, solid.half)
    return _hit_frustum(origin, direction, solid)


def normals(solid: Solid, points: Floats) -> Floats:
    """Outward unit normals in the local frame at local surface points, (3, n) each."""
    if solid.shape is Shape.ELLIPSOID:
        return _unit(points / (solid.half * solid.half)[:, None])
    if solid.shape is Shape.FRUSTUM:
        slope = (solid.top - float(solid.half[0])) / (2 * float(solid.half[2]))
        radial = np.sqrt(points[0] ** 2 + points[1] ** 2)
        normal = np.stack([points[0], points[1], -slope * radial])
        cap = np.abs(points[2]) > solid.half[2] * 0.9999 - 1e-5
        normal[:, cap] = 0
        normal[2, cap] = np.sign(points[2, cap])
        return _unit(normal)
    # The normal of a rounded box: what is left of the point once the inner box is taken away.
    rounding = min(max(solid.radius, 1e-4), float(solid.half.min()) * 0.98)
    inner = (solid.half - np.float32(rounding))[:, None]
    return _unit(np.sign(points) * np.maximum(np.abs(points) - inner, 0) + 1e-7)


def _unit(vectors: Floats) -> Floats:
    length = np.sqrt(np.einsum("in,in->n", vectors, vectors))
    result: Floats = vectors / np.maximum(length, np.float32(1e-9))
    return result


def _safe(direction: Floats) -> Floats:
    return np.where(np.abs(direction) < 1e-7, np.float32(1e-7), direction)


def _hit_box(origin: Floats, direction: Floats, half: Floats) -> Floats:
    inverse = 1 / _safe(direction)
    middle = -origin * inverse
    reach = np.abs(inverse) * half[:, None]
    near = middle - reach
    far = middle + reach
    enter = np.maximum(np.maximum(near[0], near[1]), near[2])
    leave = np.minimum(np.minimum(far[0], far[1]), far[2])
    return np.where((enter <= leave) & (enter > 0), enter, np.float32(np.inf))


def _hit_rounded(origin: Floats, direction: Floats, half: Floats, radius: float) -> Floats:
    """Sphere-march from the outer box; the field is Quilez' rounded box (iquilezles.org, "distance functions")."""
    distance = _hit_box(origin, direction, half)
    index = np.flatnonzero(np.isfinite(distance))
    if not index.size:
        return distance
    rounding = np.float32(min(radius, float(half.min()) * 0.98))
    inner = (half - rounding)[:, None]
    start = np.broadcast_to(origin, (3, distance.size))[:, index]
    ray = np.broadcast_to(direction, (3, distance.size))[:, index]
    length = np.sqrt(np.einsum("in,in->n", ray, ray))
    travelled = distance[index]
    gap = np.zeros_like(travelled)
    for _ in range(MARCH_STEPS):
        outside = np.maximum(np.abs(start + ray * travelled) - inner, 0)
        gap = np.sqrt(np.einsum("in,in->n", outside, outside)) - rounding
        travelled = travelled + gap / length
    distance[index] = np.where(np.abs(gap) < MARCH_MISS, travelled, np.float32(np.inf))
    return distance


def _hit_ellipsoid(origin: Floats, direction: Floats, half: Floats) -> Floats:
    origin = origin / half[:, None]
    direction = direction / half[:, None]
    a = np.einsum("in,in->n", direction, direction)
    b = origin[0] * direction[0] + origin[1] * direction[1] + origin[2] * direction[2]
    c = np.einsum("in,in->n", origin, origin) - 1
    root = b * b - a * c
    enter = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root > 0) & (enter > 0), enter, np.float32(np.inf))


def _hit_frustum(origin: Floats, direction: Floats, solid: Solid) -> Floats:
    bottom, height = float(solid.half[0]), float(solid.half[2])
    slope = (solid.top - bottom) / (2 * height)
    mean = (solid.top + bottom) / 2
    ox, oy, oz = origin
    dx, dy, dz = _safe(direction)
    rim = mean + slope * oz
    a = dx * dx + dy * dy - slope * slope * dz * dz
    a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    b = ox * dx + oy * dy - rim * slope * dz
    c = ox * ox + oy * oy - rim * rim
    root = b * b - a * c
    spread = np.sqrt(np.maximum(root, 0))
    best = np.full(np.broadcast_shapes(a.shape, c.shape), np.inf, np.float32)
    for side in (-1.0, 1.0):
        distance = (-b + np.float32(side) * spread) / a
        z = oz + distance * dz
        valid = (root > 0) & (np.abs(z) <= height) & (distance > 0) & (mean + slope * z > 0)
        best = np.where(valid, np.minimum(best, distance), best)
    for cap, radius in ((-height, bottom), (height, solid.top)):
        distance = (np.float32(cap) - oz) / dz
        x, y = ox + distance * dx, oy + distance * dy
        valid = (x * x + y * y <= radius * radius) & (distance > 0)
        best = np.where(valid, np.minimum(best, distance), best)
    return best
