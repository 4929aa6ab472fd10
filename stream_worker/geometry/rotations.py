"""Rotations as unit quaternions (w, x, y, z), the order of 3D Gaussian files and of the events."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def from_matrix(matrix: Floats) -> Floats:
    """Return the quaternion (4,) with w >= 0 of a rotation matrix (3, 3).

    It is the eigenvector of the greatest eigenvalue of Bar-Itzhack's matrix (J. Guidance 23(6), 2000): stable for
    every angle, half turns included.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = matrix
    symmetric = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, yx + xy, xz + zx],
            [xz - zx, yx + xy, yy - xx - zz, zy + yz],
            [yx - xy, xz + zx, zy + yz, zz - xx - yy],
        ]
    )
    quaternion = np.linalg.eigh(symmetric)[1][:, -1]
    # The sign is free: the first part that is not zero is made positive, so that equal input gives equal output.
    lead = quaternion[np.argmax(np.abs(quaternion) > 1e-9)]
    result: Floats = quaternion * (1.0 if lead > 0 else -1.0)
    return result


def to_matrix(quaternion: Floats) -> Floats:
    """Return the rotation matrix (..., 3, 3) of unit quaternions (..., 4)."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    rows = (
        np.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), axis=-1),
        np.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), axis=-1),
        np.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), axis=-1),
    )
    return np.stack(rows, axis=-2)


def from_normals(normals: Floats) -> Floats:
    """Return quaternions (N, 4) that turn the z axis into each of the unit `normals` (N, 3) by the shortest way."""
    x, y, z = normals.T
    quaternions = np.stack((1 + z, -y, x, np.zeros_like(z)), axis=-1)
    # Straight against z every half turn is as short as any other: take the one about x.
    quaternions[1 + z < 1e-9] = (0.0, 1.0, 0.0, 0.0)
    result: Floats = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    return result
