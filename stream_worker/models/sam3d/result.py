"""From the model's answer to a size: the pose in our frame, the oriented box and the volume.

This is the service's side: while it measures one object, the GPU works on the next.

Frames. Upstream's Gaussians are in the object's own frame (x right, y forward, z up as its training data stand; about
+-0.5). Its pose maps them into PyTorch3D's camera (x left, y up, z forward) by row vectors: camera = scale * local @ R
+ translation, R the matrix of the quaternion. Ours is OpenCV's camera (x right, y down, z forward) and column vectors:
half a turn about z, and the inverse rotation.

Which Gaussians make the size: those that are seen. A Gaussian of an opacity below `min_opacity` is haze, and the share
`outlier_share` that lies furthest out on either side of each axis is debris; neither is in the box or the volume. All
of them are in the PLY. (Upstream's viewer takes opacities above 0.9 for the size; soft surfaces have few of those.)
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_worker.errors import Reason, RecordFault
from stream_worker.geometry import gaussians, rotations, solid, volume
from stream_worker.settings import Sam3d

Floats = NDArray[np.float64]

FRAME = "object: upstream's canonical frame, z up; pose and box: camera x right, y down, z forward (OpenCV)"
UNITS = {"pinhole": "relative: depth of the pinhole plane", "moge": "metre, as MoGe estimates it"}
VOLUME_METHOD = "enclosed cells of a 64-cell grid, shell half"

TO_OPENCV = np.diag([-1.0, -1.0, 1.0])
_GLB = struct.Struct("<4sII")
"""Magic, version, and the length of the whole."""
LEAST = 50
"""Gaussians that must be left to measure a size by."""


def parts(answer: Mapping[str, Any], payload: bytes) -> tuple[bytes, bytes]:
    """The PLY and the GLB in the body of an answer; no bytes where there is no GLB.

    Raises RecordFault(RECONSTRUCT_FAILED) where `glb_bytes` is no length of a part that begins as a GLB does (glTF 2.0
    specification, binary glTF layout) and is as long as it says.
    """
    size = answer.get("glb_bytes", 0)
    if type(size) is not int or not 0 <= size <= len(payload):
        raise RecordFault(Reason.RECONSTRUCT_FAILED, "the model's mesh: its length is none")
    cut = len(payload) - size
    glb = payload[cut:]
    if glb and (len(glb) < _GLB.size or _GLB.unpack_from(glb) != (b"glTF", 2, size)):
        raise RecordFault(Reason.RECONSTRUCT_FAILED, "the model's mesh is no GLB")
    return payload[:cut], glb


def measured(answer: Mapping[str, Any], ply: bytes, options: Sam3d) -> dict[str, Any]:
    """What is known of an object, as `results.reconstructed` takes it.

    Args:
        answer: of the model: `pose` with upstream's `rotation` (wxyz), `translation` (3) and `scale` (3, isotropic).
        ply: N Gaussians in the object's frame.
        options: the settings that say which Gaussians count, and what unit the pose has.

    Raises RecordFault: BAD_GEOMETRY where nothing is left to measure, or a number is not finite; RECONSTRUCT_FAILED
    for an answer of another form.
    """
    try:
        model = gaussians.from_ply(ply)
        gaussians.check(model)
        scale, rotation, translation = _pose(answer.get("pose"))
        points = seen(model, options.min_opacity, options.outlier_share)
        if len(points) < LEAST:
            raise ValueError(f"only {len(points)} of {len(model)} Gaussians can be seen: no size to measure")
    except ValueError as error:
        raise RecordFault(Reason.BAD_GEOMETRY, str(error)) from None
    except (TypeError, LookupError, AttributeError) as error:
        raise RecordFault(Reason.RECONSTRUCT_FAILED, f"the model's pose: {type(error).__name__}: {error}") from None
    upright = volume.oriented_box(points, np.eye(3))
    box = volume.OrientedBox(
        center=rotation @ (scale * upright.center) + translation,
        rotation=upright.rotation @ rotation.T,
        width=scale * upright.width,
        depth=scale * upright.depth,
        height=scale * upright.height,
    )
    return {
        "gaussians": len(model),
        "frame": FRAME,
        "unit": UNITS[options.pointmap],
        "oriented_box": box.as_dict(),
        "volume": solid.volume_of_shell(points) * scale**3,
        "volume_method": VOLUME_METHOD,
        "pose": {
            "rotation": rotations.from_matrix(rotation).tolist(),
            "translation": translation.tolist(),
            "scale": scale,
        },
    }


def seen(model: gaussians.Gaussians, min_opacity: float, outlier_share: float) -> Floats:
    """The centres (M, 3) of the Gaussians that make the size, see the module's docstring."""
    logit = np.log(min_opacity / (1 - min_opacity))
    points: Floats = model.positions[model.opacities >= logit].astype(np.float64)
    if len(points) == 0:
        return points
    low, high = np.quantile(points, [outlier_share, 1 - outlier_share], axis=0)
    kept: Floats = points[((points >= low) & (points <= high)).all(axis=1)]
    return kept


def _pose(pose: Any) -> tuple[float, Floats, Floats]:
    """Scale, rotation (3, 3) and translation (3,) of OpenCV's camera, for column vectors. Raises ValueError."""
    quaternion, translation, scale = (
        np.asarray(pose[name], np.float64).reshape(-1) for name in ("rotation", "translation", "scale")
    )
    length = float(np.linalg.norm(quaternion))
    whole = np.concatenate((quaternion, translation, scale))
    if [len(quaternion), len(translation), len(scale)] != [4, 3, 3] or not np.isfinite(whole).all() or length == 0:
        raise ValueError("the pose is not finite")
    if scale.min() <= 0 or np.ptp(scale) > 1e-4 * scale.max():
        raise ValueError(f"the pose's scale {scale.tolist()} is not one positive number")
    rotation = TO_OPENCV @ rotations.to_matrix(quaternion / length).T
    return float(scale[0]), rotation, TO_OPENCV @ translation
