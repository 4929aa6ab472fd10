"""Renders a photo-like room from a seed, with the exact mask of every piece of furniture in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_worker.scenes.film import develop
from stream_worker.scenes.light import ShadowMap, shade
from stream_worker.scenes.materials import Material, paint
from stream_worker.scenes.room import Room, furnish
from stream_worker.scenes.solids import Shape, normals
from stream_worker.scenes.trace import FACES, Seen, trace_image, trace_rays

Floats = npt.NDArray[np.float32]

KEY_MAP = 448
SKY_MAP = 256
"""Sides of the shadow maps, in texels."""

SUBPIXELS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))
"""Where an edge pixel is sampled, against its centre: a rotated grid."""

UP = np.array([0, 0, 1], np.float32)


@dataclass(frozen=True, slots=True)
class SceneObject:
    """A piece of furniture as it is seen.

    `mask` is (height, width) bool: the pixels whose centre shows it. `box` is (x0, y0, x1, y1) around the mask in
    pixels, x1 and y1 exclusive. `visible_share` is the share of its silhouette within the image that nothing hides.
    """

    label: str
    mask: npt.NDArray[np.bool_]
    box: tuple[int, int, int, int]
    visible_share: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A rendered photo.

    `rgb` is (height, width, 3) uint8. `ids` is (height, width) int16: 0 for the room and its clutter, k for the
    k-th piece that was placed. `objects` are those with at least one pixel, in the order of
    their ids; masks never overlap.
    """

    rgb: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int16]
    objects: tuple[SceneObject, ...]


def render(seed: int, width: int, height: int, objects: int | None = None) -> Scene:
    """Render the room of that seed. The same arguments on the same machine give the same bytes.

    `objects` asks for so many pieces (0 is an empty room); a crowded room may hold fewer. None draws a number.
    Raises ValueError for a size below 32 pixels or a negative number.
    """
    if min(width, height) < 32:
        raise ValueError(f"a scene needs at least 32 x 32 pixels, not {width} x {height}")
    if objects is not None and objects < 0:
        raise ValueError(f"a scene cannot have {objects} objects")
    rng = np.random.default_rng([seed, width, height])
    room = furnish(rng, width, height, objects)
    row, column = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")
    rays = room.camera.rays(column.ravel(), row.ravel())
    seen = trace_image(room, rays.reshape(3, height, width))
    light = room.lighting
    maps = (
        ShadowMap(room.solids[: room.casters], light.key, room.size, KEY_MAP, light.key_blur),
        ShadowMap(room.solids[: room.casters], UP, room.size, SKY_MAP, light.sky_blur),
    )
    radiance = _colours(room, rays, seen.depth.ravel(), seen.surface.ravel(), maps)
    _smooth_edges(room, seen, radiance, maps)
    rgb = develop(rng, radiance.reshape(3, height, width), light.exposure)
    owners = np.array([0] * FACES + [solid.owner for solid in room.solids], np.int16)
    ids = owners[seen.surface]
    return Scene(rgb, ids, _objects(room, ids, seen))


def _objects(room: Room, ids: npt.NDArray[np.int16], seen: Seen) -> tuple[SceneObject, ...]:
    found = []
    for number, label in enumerate(room.labels, start=1):
        mask = ids == number
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if not columns.size:
            continue
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        share = float(mask.sum() / max(int(seen.silhouettes[number - 1].sum()), 1))
        found.append(SceneObject(label, mask, box, share))
    return tuple(found)


def _smooth_edges(room: Room, seen: Seen, radiance: Floats, maps: tuple[ShadowMap, ShadowMap]) -> None:
    """Replace the colour of pixels on the outline of a surface by the mean of sub-pixel samples, in place."""
    height, width = seen.surface.shape
    edge = np.zeros((height, width), np.bool_)
    across = seen.surface[:, 1:] != seen.surface[:, :-1]
    down = seen.surface[1:] != seen.surface[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    row, column = (axis.astype(np.float32) for axis in np.nonzero(edge))
    if not row.size:
        return
    u = np.concatenate([column + np.float32(dx) for dx, _ in SUBPIXELS])
    v = np.concatenate([row + np.float32(dy) for _, dy in SUBPIXELS])
    rays = room.camera.rays(u, v)
    fine = trace_rays(room, u, v, rays)
    # Clipped before the mean, so that a lamp or a window does not fray the outline next to it.
    colours = np.minimum(_colours(room, rays, fine.depth, fine.surface, maps), np.float32(2.0))
    radiance[:, edge.ravel()] = colours.reshape(3, len(SUBPIXELS), -1).mean(1)


def _colours(
    room: Room, rays: Floats, depth: Floats, surface: npt.NDArray[np.int16], maps: tuple[ShadowMap, ShadowMap]
) -> Floats:
    """Radiance, (3, n), that comes in along rays that meet the given surfaces at the given depths."""
    order = np.argsort(surface, kind="stable")
    points = room.camera.position[:, None] + rays[:, order] * depth[order]
    starts = np.searchsorted(surface[order], np.arange(FACES + len(room.solids) + 1))
    count = depth.size
    normal = np.empty((3, count), np.float32)
    albedo = np.empty((3, count), np.float32)
    gloss, shine, glow = (np.empty(count, np.float32) for _ in range(3))
    for number in range(FACES + len(room.solids)):
        part = slice(starts[number], starts[number + 1])
        if part.start == part.stop:
            continue
        if number < FACES:
            material, facing, colour = _face(room, number, points[:, part])
        else:
            material, facing, colour = _solid(room, number - FACES, points[:, part])
        normal[:, part], albedo[:, part] = facing, colour
        gloss[part], shine[part], glow[part] = material.gloss, material.shine, material.glow
    lit = shade(room.lighting, room.size, room.camera.position, points, normal, albedo, gloss, shine, glow, maps)
    result = np.empty_like(lit)
    result[:, order] = lit
    return result


def _face(room: Room, number: int, points: Floats) -> tuple[Material, Floats, Floats]:
    material = room.faces[number]
    axis, far = divmod(number, 2)
    facing = np.zeros((3, 1), np.float32)
    facing[axis] = -1 if far else 1
    u, v = (points[0], points[1]) if axis == 2 else (points[1 - axis], points[2])
    return material, facing, paint(material, u, v)


def _solid(room: Room, index: int, points: Floats) -> tuple[Material, Floats, Floats]:
    solid = room.solids[index]
    local = solid.axes.T @ (points - solid.centre[:, None])
    facing = normals(solid, local)
    if solid.shape is Shape.FRUSTUM:
        u = np.arctan2(local[1], local[0]) * solid.bounds[0]
        colour = paint(solid.material, u, local[2])
    else:
        along = np.abs(facing)
        flat_x = (along[0] > along[1]) & (along[0] > along[2])
        flat_z = (along[2] > along[1]) & ~flat_x
        u = np.where(flat_x, local[1], local[0])
        v = np.where(flat_z, local[1], local[2])
        colour = paint(solid.material, u, v)
    return solid.material, solid.axes @ facing, colour
