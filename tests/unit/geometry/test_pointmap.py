import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.geometry import pointmap


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (7, 5), (1, 1)])
def test_the_pointmap_is_the_formula_pixel_by_pixel(width, height):
    points = pointmap.pointmap(width, height)
    assert points.shape == (height, width, 3)
    assert points.dtype == np.float32
    focal = 0.9 * max(width, height)
    for u, v in [(0, 0), (width - 1, height - 1), (width // 2, height // 3)]:
        expected = [(u - (width - 1) / 2) / focal, (v - (height - 1) / 2) / focal, 1.0]
        np.testing.assert_array_equal(points[v, u], np.float32(expected))


def test_the_frame_is_x_right_y_down_z_forward():
    points = pointmap.pointmap(64, 48)
    assert points[0, 63, 0] > 0 > points[0, 0, 0]
    assert points[47, 0, 1] > 0 > points[0, 0, 1]
    assert (points[..., 2] == 1).all()


def test_pytorch3ds_frame_is_half_a_turn_about_z():
    points = pointmap.pointmap(64, 48)
    turned = pointmap.to_pytorch3d(points)
    assert turned.dtype == np.float32
    assert turned[0, 0, 0] > 0  # left is positive
    assert turned[0, 0, 1] > 0  # up is positive
    assert (turned[..., 2] == 1).all()
    np.testing.assert_array_equal(pointmap.to_pytorch3d(turned), points)
    # A rotation, not a reflection: handedness is kept.
    assert np.linalg.det(pointmap.to_pytorch3d(np.eye(3))) == pytest.approx(1)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 10))
def test_a_point_projects_back_to_its_pixel(width, height, across, down, depth):
    camera = pointmap.Pinhole.of(width, height)
    u, v = np.array(across * (width - 1)), np.array(down * (height - 1))
    back = camera.pixels(camera.points(u, v) * depth)
    np.testing.assert_allclose(back, (u, v), atol=1e-6)


@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_the_turned_camera_faces_the_point_and_does_not_roll(x, y):
    point = np.array([x, y, 1.0])
    view = pointmap.facing(point)
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view) == pytest.approx(1)
    np.testing.assert_allclose(view @ point, [0, 0, np.linalg.norm(point)], atol=1e-12)
    assert view[0, 1] == pytest.approx(0, abs=1e-12)
    assert view[0, 0] > 0
    assert view[1, 1] > 0


def test_a_photo_without_pixels_is_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        pointmap.pointmap(0, 5)
