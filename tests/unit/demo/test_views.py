"""Objects as the report's 3D views take them."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from stream_worker.demo import views
from stream_worker.events import Geometry
from stream_worker.geometry import gaussians, masks
from stream_worker.models.silhouette import reconstruct


@pytest.fixture
def thing() -> tuple[bytes, Geometry]:
    """A red over blue upright block, at the right of a photo."""
    photo = np.zeros((240, 320, 3), np.uint8)
    mask = np.zeros((240, 320), bool)
    mask[60:180, 220:260] = True
    photo[:120], photo[120:] = (250, 10, 10), (10, 10, 250)
    header, ply = reconstruct(photo, masks.encode(mask), {"max_gaussians": 4000, "grid": 128})
    return ply, Geometry(**header)


def decoded(view: dict) -> tuple[np.ndarray, np.ndarray]:
    xyz = np.frombuffer(base64.b64decode(view["xyz"]), "<f4").reshape(-1, 3)
    return xyz, np.frombuffer(base64.b64decode(view["rgb"]), np.uint8).reshape(-1, 3)


def test_points_fill_their_box_with_y_up(thing: tuple[bytes, Geometry]) -> None:
    ply, geometry = thing
    view = views.view(ply, geometry)
    xyz, rgb = decoded(view)
    red = rgb[:, 0] > 200
    assert xyz[red, 1].mean() > 0 > xyz[~red, 1].mean(), "the upper half of the photo is up"
    box = geometry.oriented_box
    corners = np.array(view["box"]).reshape(-1, 3)
    assert len(view["box"]) == 12
    local = np.array([[1, -1, -1]]) * xyz @ np.array(box.rotation).T
    half = np.array([box.width, box.depth, box.height]) / 2
    assert (np.abs(local) <= half * 1.05).all(), "no point lies outside its box"
    assert np.abs(local).max(axis=0) == pytest.approx(half, rel=0.1)
    assert np.ptp(corners[:, 1]) == pytest.approx(box.height, rel=0.1)
    assert [size["text"][0] for size in view["sizes"]] == ["w", "d", "h"]


def test_a_sample_is_bounded_and_always_the_same(thing: tuple[bytes, Geometry]) -> None:
    ply, geometry = thing
    first, again = views.view(ply, geometry, 500), views.view(ply, geometry, 500)
    assert first == again
    assert len(decoded(first)[0]) == 500


def test_faint_gaussians_are_left_out(thing: tuple[bytes, Geometry]) -> None:
    ply, geometry = thing
    model = gaussians.from_ply(ply)
    model.opacities[10:] = -8
    assert len(decoded(views.view(gaussians.to_ply(model), geometry))[0]) == 10


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(thing: tuple[bytes, Geometry], value: float) -> None:
    ply, geometry = thing
    pose = geometry.pose.model_copy(update={"translation": [0.0, value, 1.0]})
    with pytest.raises(ValueError, match="finite"):
        views.view(ply, geometry.model_copy(update={"pose": pose}))


def test_a_rotation_of_zero_is_refused(thing: tuple[bytes, Geometry]) -> None:
    ply, geometry = thing
    pose = geometry.pose.model_copy(update={"rotation": [0.0, 0.0, 0.0, 0.0]})
    with pytest.raises(ValueError, match="quaternion"):
        views.view(ply, geometry.model_copy(update={"pose": pose}))
