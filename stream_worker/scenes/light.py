"""Light: a soft sky light from above, a key light with cast shadows, corners that are darker, glossy highlights.

Shadows are variance shadow maps (Donnelly and Lauritzen, 2006): depths seen from the light, blurred, with the
one-sided Chebyshev bound as the share of light.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from stream_worker.scenes.furniture.workbench import towards
from stream_worker.scenes.solids import Solid, hit

Floats = npt.NDArray[np.float32]
NO_WALL = -1


@dataclass(frozen=True, slots=True)
class Lighting:
    """Directions point to the light; colours are linear RGB; blurs are shares of the shadow map."""

    key: Floats
    key_colour: Floats
    key_blur: float
    sky_colour: Floats
    sky_blur: float
    bounce_colour: Floats
    window_wall: int
    """The wall with the window: 0 back, 1 left, 2 right, or NO_WALL."""
    window: tuple[float, float, float, float]
    """The window on its wall: left, right, bottom, top in metres, in the wall's own frame."""
    sunny: float
    """How much more of the key light comes in through the window than elsewhere; 0: it is everywhere the same."""
    exposure: float


def daylight(rng: Generator, room: tuple[float, float, float]) -> Lighting:
    """Random light for a room (width, depth, height): by day or by lamp, cool or warm, hard or soft."""
    wide, deep, high = room
    wall = int(rng.choice([NO_WALL, 0, 1, 2], p=[0.25, 0.25, 0.25, 0.25]))
    length = wide if wall == 0 else deep
    span = rng.uniform(0.9, min(2.4, length * 0.5))
    middle = rng.uniform(-0.2, 0.2) * length
    bottom = rng.uniform(0.6, 1.0)
    window = (middle - span / 2, middle + span / 2, bottom, min(bottom + rng.uniform(0.9, 1.5), high - 0.25))
    height = rng.uniform(0.5, 1.1)
    sunny = rng.uniform(0.8, 2.2) if wall != NO_WALL and rng.random() < 0.55 else 0.0
    heading = {0: rng.uniform(0.9, 2.2), 1: rng.uniform(2.5, 3.9), 2: rng.uniform(-0.8, 0.6)}.get(
        wall, rng.uniform(-3.14, 3.14)
    )
    key = np.array([cos(heading) * cos(height), sin(heading) * cos(height), sin(height)], np.float32)
    warmth = rng.uniform(-0.08, 0.2)
    tint = np.array([1 + warmth, 1.0, 1 - 1.2 * warmth], np.float32)
    cool = np.array([1 - 0.4 * warmth, 1.0, 1 + 0.4 * warmth], np.float32)
    power = rng.uniform(0.25, 1.5)
    return Lighting(
        key=key,
        key_colour=tint * np.float32(power),
        key_blur=rng.uniform(0.004, 0.03),
        sky_colour=cool * np.float32(rng.uniform(0.45, 0.8)),
        sky_blur=rng.uniform(0.02, 0.045),
        bounce_colour=np.array([1.0, 0.95, 0.88], np.float32) * np.float32(rng.uniform(0.25, 0.42)),
        window_wall=wall,
        window=window,
        sunny=sunny,
        exposure=rng.uniform(0.95, 1.5) / (0.75 + 0.4 * power),
    )


class ShadowMap:
    """Which points a directional light reaches, by the solids of a room."""

    def __init__(
        self, solids: list[Solid], direction: Floats, room: tuple[float, float, float], size: int, blur: float
    ) -> None:
        """`direction` points to the light; `size` is the map's side in texels; `blur` a share of it."""
        wide, deep, high = room
        self._axes = towards(-direction)
        corners = np.array(
            [[x, y, z] for x in (-wide / 2, wide / 2) for y in (0, deep) for z in (0, high)], np.float32
        ).T
        flat = self._axes.T @ corners
        self._low = flat.min(1)
        self._cell = np.float32(float((flat.max(1) - self._low)[:2].max()) / size)
        self._size = size
        depth = self._depths(solids)
        radius = max(1, round(blur * size))
        self._mean = _box_blur(depth, radius)
        self._square = _box_blur(depth * depth, radius)

    def _depths(self, solids: list[Solid]) -> Floats:
        size, cell = self._size, self._cell
        depth = np.full((size, size), 30.0, np.float32)
        steps = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * cell
        x, y = self._low[0] + steps, self._low[1] + steps
        start = self._low[2] - np.float32(1.0)
        for solid in solids:
            flat = self._axes.T @ solid.corners()
            c0, r0 = np.maximum(np.floor((flat[:2].min(1) - self._low[:2]) / cell).astype(int), 0)
            c1, r1 = np.minimum(np.ceil((flat[:2].max(1) - self._low[:2]) / cell).astype(int) + 1, size)
            if c1 <= c0 or r1 <= r0:
                continue
            gx, gy = np.meshgrid(x[c0:c1], y[r0:r1])
            origins = self._axes @ np.stack([gx.ravel(), gy.ravel(), np.full(gx.size, start, np.float32)])
            local = solid.axes.T @ (origins - solid.centre[:, None])
            distance = hit(solid, local, (solid.axes.T @ self._axes[:, 2])[:, None]) + start
            patch = depth[r0:r1, c0:c1]
            np.minimum(patch, distance.reshape(patch.shape), out=patch)
        return depth

    def lit(self, points: Floats) -> Floats:
        """Share of the light, 0..1, that reaches world points (3, n)."""
        x, y, z = self._axes.T @ points
        column = np.clip(((x - self._low[0]) / self._cell).astype(np.int32), 0, self._size - 1)
        row = np.clip(((y - self._low[1]) / self._cell).astype(np.int32), 0, self._size - 1)
        place = row * self._size + column
        mean = self._mean.ravel()[place]
        variance = np.maximum(self._square.ravel()[place] - mean * mean, np.float32(2e-4))
        behind = z - np.float32(0.02) - mean
        bound = variance / (variance + behind * behind)
        share: Floats = np.where(behind <= 0, np.float32(1), np.clip((bound - 0.25) / 0.75, 0, 1))
        return share


def _box_blur(field: Floats, radius: int) -> Floats:
    """Two box blurs of width 2 * radius + 1 along each axis, edges repeated."""
    result = np.minimum(field, np.float32(12.0)).astype(np.float64)
    width = 2 * radius + 1
    for _ in range(2):
        for axis in (0, 1):
            pad = [(0, 0), (0, 0)]
            pad[axis] = (radius + 1, radius)
            total = np.cumsum(np.pad(result, pad, mode="edge"), axis=axis)
            head = np.take(total, range(width, total.shape[axis]), axis=axis)
            tail = np.take(total, range(total.shape[axis] - width), axis=axis)
            result = (head - tail) / width
    return result.astype(np.float32)


def _through_window(lighting: Lighting, room: tuple[float, float, float], points: Floats) -> Floats:
    """1 where the key light reaches the points through the window, 0 elsewhere, with soft edges."""
    wide, deep, _ = room
    key = lighting.key
    if lighting.window_wall == 0:
        reach = (deep - points[1]) / key[1]
        along = points[0] + reach * key[0]
    else:
        side = -1.0 if lighting.window_wall == 1 else 1.0
        reach = (side * wide / 2 - points[0]) / key[0]
        along = -np.float32(side) * (points[1] + reach * key[1] - deep / 2)
    above = points[2] + reach * key[2]
    left, right, bottom, top = lighting.window
    pane = (right - left) / 3
    bar = np.minimum((along - left) % np.float32(pane), pane - (along - left) % np.float32(pane)) - np.float32(0.02)
    gap = np.minimum(np.minimum(along - left, right - along), np.minimum(above - bottom, top - above))
    result: Floats = np.clip(np.minimum(gap, bar) * 30, 0, 1)
    return result


def shade(
    lighting: Lighting,
    room: tuple[float, float, float],
    eye: Floats,
    points: Floats,
    normals: Floats,
    albedo: Floats,
    gloss: Floats,
    shine: Floats,
    glow: Floats,
    maps: tuple[ShadowMap, ShadowMap],
) -> Floats:
    """Radiance, (3, n) linear, of surface points under the light of the room; `maps` are those of key and sky."""
    wide, deep, high = room
    key_map, sky_map = maps
    facing = np.maximum(lighting.key @ normals, 0)
    sun = facing * key_map.lit(points)
    if lighting.sunny:
        sun = sun * (np.float32(0.5) + np.float32(lighting.sunny) * _through_window(lighting, room, points))
    open_sky = sky_map.lit(points + normals * np.float32(0.06))
    up = normals[2] * np.float32(0.5) + np.float32(0.5)
    gap = np.minimum(np.minimum(points[0] + wide / 2, wide / 2 - points[0]), deep - points[1])
    corner = 1 - 0.35 * np.exp(-np.maximum(gap, 0) / 0.25) * (np.abs(normals[2]) > 0.5)
    low_edge = 1 - 0.25 * np.exp(-np.maximum(np.minimum(points[2], high - points[2]), 0) / 0.25) * (
        np.abs(normals[2]) < 0.5
    )
    closed = corner * low_edge
    sky = (0.25 + 0.75 * up) * (0.22 + 0.78 * open_sky) * closed
    bounce = (1 - 0.55 * up) * (0.45 + 0.55 * open_sky) * closed
    to_eye = eye[:, None] - points
    to_eye /= np.sqrt(np.einsum("in,in->n", to_eye, to_eye)) + np.float32(1e-6)
    middle = to_eye + lighting.key[:, None]
    middle /= np.sqrt(np.einsum("in,in->n", middle, middle)) + np.float32(1e-6)
    spark = gloss * np.maximum(np.einsum("in,in->n", middle, normals), 0) ** shine * np.minimum(sun * 4, 1)
    grazing = gloss * np.float32(0.5) * (1 - np.maximum(np.einsum("in,in->n", to_eye, normals), 0)) ** 4 * open_sky
    light = (
        lighting.key_colour[:, None] * sun
        + lighting.sky_colour[:, None] * sky
        + lighting.bounce_colour[:, None] * bounce
    )
    result: Floats = (
        albedo * (light + glow) + lighting.key_colour[:, None] * spark + lighting.sky_colour[:, None] * grazing
    )
    return result.astype(np.float32)
