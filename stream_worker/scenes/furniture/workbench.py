"""Where solids are put together into a piece of furniture.

Frame of a piece: metres, x to its right, y to its back (it faces -y), z up, origin on the floor in the
middle of its footprint.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import cos, sin

import numpy as np
import numpy.typing as npt

from stream_worker.scenes.materials import Material
from stream_worker.scenes.solids import Shape, Solid

Floats = npt.NDArray[np.float32]
UPRIGHT = np.eye(3, dtype=np.float32)


def turned(axis: int, angle: float) -> Floats:
    """The rotation by `angle` radians about the x, y or z axis (0, 1, 2)."""
    c, s = cos(angle), sin(angle)
    matrix = np.eye(3, dtype=np.float32)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def towards(direction: Floats) -> Floats:
    """A rotation whose local z points along `direction`."""
    z = direction / np.linalg.norm(direction)
    zx, zy, zz = (float(part) for part in z)
    x = np.array([0.0, -zz, zy] if abs(zx) < 0.9 else [zz, 0.0, -zx])
    x /= np.linalg.norm(x)
    y = np.array([zy * x[2] - zz * x[1], zz * x[0] - zx * x[2], zx * x[1] - zy * x[0]])
    return np.stack([x, y, z], axis=1).astype(np.float32)


@dataclass(slots=True)
class Piece:
    """Solids in the frame of a piece, its outer size (width, depth, height) and what can stand on it."""

    solids: list[Solid] = field(default_factory=list)
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    top: tuple[float, float, float] | None = None
    """Width, depth and height of a surface that smaller things can stand on."""
    faces: bool = True
    """Whether it has a front, so that it stands with its back to a wall."""

    def box(
        self,
        at: tuple[float, float, float],
        size: tuple[float, float, float],
        material: Material,
        bevel: float = 0.006,
        axes: Floats = UPRIGHT,
    ) -> None:
        """A box with sharp outlines; `at` is its centre, `size` its full size."""
        self._add(Shape.BOX, at, size, material, axes, bevel)

    def soft(
        self,
        at: tuple[float, float, float],
        size: tuple[float, float, float],
        radius: float,
        material: Material,
        axes: Floats = UPRIGHT,
    ) -> None:
        """A box with round edges: cushions, mattresses."""
        self._add(Shape.ROUNDED, at, size, material, axes, min(radius, 0.49 * min(size)))

    def ball(
        self,
        at: tuple[float, float, float],
        size: tuple[float, float, float],
        material: Material,
        axes: Floats = UPRIGHT,
    ) -> None:
        """An ellipsoid of that full size."""
        self._add(Shape.ELLIPSOID, at, size, material, axes, 0.0)

    def rod(
        self,
        start: tuple[float, float, float],
        end: tuple[float, float, float],
        radius: float,
        material: Material,
        end_radius: float | None = None,
    ) -> None:
        """A cylinder, or a cone cut off, between two points."""
        a, b = np.array(start, np.float32), np.array(end, np.float32)
        half = np.array([radius, radius, np.linalg.norm(b - a) / 2], np.float32)
        top = radius if end_radius is None else end_radius
        self.solids.append(
            Solid(Shape.FRUSTUM, ((a + b) / 2).astype(np.float32), towards(b - a), half, material, top=top)
        )

    def _add(
        self,
        shape: Shape,
        at: tuple[float, float, float],
        size: tuple[float, float, float],
        material: Material,
        axes: Floats,
        radius: float,
    ) -> None:
        half = np.array([length / 2 for length in size], np.float32)
        self.solids.append(Solid(shape, np.array(at, np.float32), axes, half, material, radius=radius))

    def placed(self, at: tuple[float, float, float], yaw: float, owner: int) -> list[Solid]:
        """Its solids in world coordinates: turned by `yaw` about z, then moved to `at`."""
        turn = turned(2, yaw)
        offset = np.array(at, np.float32)
        return [
            replace(solid, centre=turn @ solid.centre + offset, axes=turn @ solid.axes, owner=owner)
            for solid in self.solids
        ]
