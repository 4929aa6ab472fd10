"""Which surface each ray meets first: of a whole image, or of a loose set of rays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_worker.scenes.camera import Camera
from stream_worker.scenes.room import Room
from stream_worker.scenes.solids import Solid, hit

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int16]
Flags = npt.NDArray[np.bool_]

FACES = 6
"""Surface numbers 0..5 are the room's faces (left, right, front, back, floor, ceiling), then come its solids."""


@dataclass(slots=True)
class Seen:
    """Per ray: the depth and the number of the surface; per object: its silhouette as if it stood alone."""

    depth: Floats
    surface: Ints
    silhouettes: list[Flags]


def trace_image(room: Room, rays: Floats) -> Seen:
    """Trace one ray per pixel, (3, height, width)."""
    camera = room.camera
    shape = (camera.height, camera.width)
    depth, surface = _faces(room, rays.reshape(3, -1))
    depth, surface = depth.reshape(shape), surface.reshape(shape)
    silhouettes = [np.zeros(shape, np.bool_) for _ in room.labels]
    for number, solid in enumerate(room.solids, start=FACES):
        left, top, right, bottom = _window(camera, solid)
        if right <= left or bottom <= top:
            continue
        area = (slice(top, bottom), slice(left, right))
        distance = _distance(room, solid, rays[:, *area].reshape(3, -1)).reshape(bottom - top, right - left)
        patch = depth[area]
        nearer = distance < patch
        patch[nearer] = distance[nearer]
        surface[area][nearer] = number
        if solid.owner:
            silhouettes[solid.owner - 1][area] |= np.isfinite(distance)
    return Seen(depth, surface, silhouettes)


def trace_rays(room: Room, u: Floats, v: Floats, rays: Floats) -> Seen:
    """Trace loose rays, (3, n), through the pixel positions u and v. Without silhouettes."""
    depth, surface = _faces(room, rays)
    for number, solid in enumerate(room.solids, start=FACES):
        left, top, right, bottom = _window(room.camera, solid)
        index = np.flatnonzero((u >= left) & (u <= right) & (v >= top) & (v <= bottom))
        if not index.size:
            continue
        distance = _distance(room, solid, rays[:, index])
        nearer = distance < depth[index]
        index = index[nearer]
        depth[index] = distance[nearer]
        surface[index] = number
    return Seen(depth, surface, [])


def _distance(room: Room, solid: Solid, rays: Floats) -> Floats:
    origin = solid.axes.T @ (room.camera.position - solid.centre)
    return hit(solid, origin[:, None], solid.axes.T @ rays)


def _window(camera: Camera, solid: Solid) -> tuple[int, int, int, int]:
    """The pixels that the solid can cover: left, top, right, bottom (exclusive)."""
    u, v, depth = camera.project(solid.corners())
    if depth.max() < 0.06:
        return 0, 0, 0, 0
    if depth.min() < 0.06:
        return 0, 0, camera.width, camera.height
    left, top = max(int(u.min()) - 1, 0), max(int(v.min()) - 1, 0)
    return left, top, min(int(u.max()) + 3, camera.width), min(int(v.max()) + 3, camera.height)


def _faces(room: Room, rays: Floats) -> tuple[Floats, Ints]:
    """Where rays from inside leave the empty room."""
    wide, deep, high = room.size
    low = np.array([-wide / 2, 0, 0], np.float32) - room.camera.position
    top = np.array([wide / 2, deep, high], np.float32) - room.camera.position
    safe = np.where(np.abs(rays) < 1e-7, np.float32(1e-7), rays)
    ahead = safe > 0
    reach = np.where(ahead, top[:, None], low[:, None]) / safe
    axis = np.where(reach[0] < reach[1], 0, 1)
    depth = np.minimum(reach[0], reach[1])
    vertical = reach[2] < depth
    depth = np.minimum(depth, reach[2])
    axis = np.where(vertical, 2, axis)
    side = np.where(axis == 0, ahead[0], np.where(axis == 1, ahead[1], ahead[2]))
    return depth, (axis * 2 + side).astype(np.int16)
