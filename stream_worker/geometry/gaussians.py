"""3D Gaussians and their file: the binary PLY that 3D Gaussian Splatting writes and splat viewers open.

One vertex is 17 little-endian float32 (68 bytes): x y z, nx ny nz (zeros), f_dc_0..2, opacity, scale_0..2,
rot_0..3, as `save_ply` of graphdeco-inria/gaussian-splatting (scene/gaussian_model.py) without higher harmonics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SH_C0 = 0.28209479177387814
"""Spherical harmonic of degree 0, sqrt(1 / (4 pi)): Ramamoorthi and Hanrahan 2001; Kerbl et al. 2023."""

PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
STRIDE = 4 * len(PROPERTIES)

_MAX_HEADER = 4096
_HEADER = re.compile(
    rb"ply\nformat binary_little_endian 1\.0\n((?:comment [^\n]*\n)*)element vertex ([0-9]{1,10})\n"
    + b"".join(rb"property float %s\n" % name.encode() for name in PROPERTIES)
    + rb"end_header\n"
)


@dataclass(frozen=True, slots=True, eq=False)
class Gaussians:
    """N Gaussians, every array float32.

    positions (N, 3); sh_dc (N, 3), colour as harmonics of degree 0; opacities (N,), logits; scales (N, 3), natural
    logarithms of the standard deviations along the Gaussian's own axes; rotations (N, 4), wxyz quaternions.
    """

    positions: Floats
    sh_dc: Floats
    opacities: Floats
    scales: Floats
    rotations: Floats

    def __len__(self) -> int:
        return len(self.positions)


def check(gaussians: Gaussians) -> None:
    """Raise ValueError unless there is a Gaussian, the shapes fit, all is finite and no rotation is zero."""
    count = len(gaussians)
    if count == 0:
        raise ValueError("no Gaussians")
    shapes = {"positions": 3, "sh_dc": 3, "opacities": None, "scales": 3, "rotations": 4}
    for name, columns in shapes.items():
        values: Floats = getattr(gaussians, name)
        if values.shape != ((count,) if columns is None else (count, columns)):
            raise ValueError(f"Gaussians: {name} has shape {values.shape} for {count} Gaussians")
        if not np.isfinite(values).all():
            raise ValueError(f"Gaussians: {name} holds a value that is not finite")
    if not (np.abs(gaussians.rotations).max(axis=1) > 0).all():
        raise ValueError("Gaussians: a rotation is zero")


def to_ply(gaussians: Gaussians) -> bytes:
    """Return the PLY file. Nothing is checked: see `check`."""
    table = np.zeros((len(gaussians), len(PROPERTIES)), "<f4")
    table[:, 0:3] = gaussians.positions
    table[:, 6:9] = gaussians.sh_dc
    table[:, 9] = gaussians.opacities
    table[:, 10:13] = gaussians.scales
    table[:, 13:17] = gaussians.rotations
    return table_to_ply(table)


def table_to_ply(table: Floats) -> bytes:
    """Return the PLY file of a table (N, 17), float32, with `PROPERTIES` as its columns. Nothing is checked."""
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    lines += [f"property float {name}" for name in PROPERTIES]
    head = ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")
    return b"".join((head, np.ascontiguousarray(table, "<f4").data))


def to_points_ply(gaussians: Gaussians, min_opacity: float = 0.0) -> bytes:
    """Return a small PLY of coloured points, a fifth of the Gaussians' size: x y z float32, red green blue uint8.

    Only the centres of Gaussians of at least `min_opacity` are in it. Nothing is checked: see `check`.
    """
    shown = 1 / (1 + np.exp(-gaussians.opacities.astype(np.float64))) >= min_opacity
    rows = np.empty(int(shown.sum()), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    rows["xyz"] = gaussians.positions[shown]
    rows["rgb"] = sh_dc_to_rgb(gaussians.sh_dc[shown])
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    lines += [f"property float {name}" for name in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii") + rows.tobytes()


def from_ply(data: bytes) -> Gaussians:
    """Return the Gaussians of a PLY file in exactly the layout above (comments are passed over).

    Raises ValueError for any other header, and for a body that is not as long as the header says. Values are taken as
    they are: see `check`. Allocates no more than a few times the size of `data`.
    """
    header = _HEADER.match(data[:_MAX_HEADER])
    if header is None:
        raise ValueError("not a binary little-endian PLY of 3D Gaussians (17 float properties a vertex)")
    count, body = int(header[2]), len(data) - header.end()
    if body != count * STRIDE:
        raise ValueError(f"PLY: {count} Gaussians take {count * STRIDE} bytes, but {body} follow the header")
    table = np.frombuffer(data, "<f4", offset=header.end()).reshape(count, len(PROPERTIES)).astype(np.float32)
    return Gaussians(table[:, 0:3], table[:, 6:9], table[:, 9], table[:, 10:13], table[:, 13:17])


def rgb_to_sh_dc(rgb: NDArray[Any]) -> Floats:
    """Return the harmonics (..., 3) of colours (..., 3) uint8: colour / 255 = 0.5 + SH_C0 * dc, no gamma applied."""
    return ((rgb.astype(np.float64) / 255 - 0.5) / SH_C0).astype(np.float32)


def sh_dc_to_rgb(sh_dc: Floats) -> NDArray[np.uint8]:
    """Return the colours (..., 3) uint8 of harmonics (..., 3), clipped to 0 to 255."""
    return np.clip(np.rint((0.5 + SH_C0 * sh_dc.astype(np.float64)) * 255), 0, 255).astype(np.uint8)
