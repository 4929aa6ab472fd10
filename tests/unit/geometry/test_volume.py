import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.geometry import volume

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)


def turned(angle):
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])


@given(st.floats(0, 6.3))
def test_a_turned_box_is_found_in_its_own_size(angle):
    points = CORNERS * [1.5, 0.5, 2.0] @ turned(angle) + [3, -2, 1]
    box = volume.oriented_box(points, np.eye(3))
    assert sorted((box.width, box.depth)) == pytest.approx([1, 3], rel=0.025)
    assert box.height == pytest.approx(4)
    np.testing.assert_allclose(box.center, [3, -2, 1], atol=1e-9)
    np.testing.assert_allclose(box.rotation @ box.rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(box.rotation) == pytest.approx(1)
    assert box.rotation[0] @ [1, 0, 0] >= np.cos(np.pi / 4) - 1e-9


def test_the_turn_is_exact_where_it_pays():
    box = volume.oriented_box(CORNERS * [1.5, 0.5, 2.0] @ turned(0.4), np.eye(3))
    assert (box.width, box.depth, box.height) == pytest.approx((3, 1, 4))
    np.testing.assert_allclose(box.rotation, turned(0.4), atol=1e-9)


def test_height_stays_upright_where_pca_would_tilt():
    leaning = np.array([[0.0, 0, 0], [0.1, 0, 0], [1, 0, 3], [1.1, 0.2, 3]])
    box = volume.oriented_box(leaning, np.eye(3))
    np.testing.assert_array_equal(box.rotation[2], [0, 0, 1])
    assert box.height == 3


def test_a_round_thing_is_not_turned():
    angles = np.linspace(0, 2 * np.pi, 101)
    points = np.stack((np.cos(angles), np.sin(angles), angles), axis=1)
    np.testing.assert_array_equal(volume.oriented_box(points, np.eye(3)).rotation, np.eye(3))


def test_other_axes_are_honoured():
    axes = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # OpenCV's camera: right, forward, up
    box = volume.oriented_box(CORNERS * [1, 2, 3], axes)
    assert (box.width, box.depth, box.height) == pytest.approx((2, 6, 4))


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_a_cloud_without_an_area_has_a_box(count):
    line = np.outer(np.linspace(0, 1, count), [1.0, 1.0, 0.0])
    box = volume.oriented_box(line, np.eye(3))
    assert box.width * box.depth == pytest.approx(0, abs=1e-9)
    assert np.hypot(box.width, box.depth) == pytest.approx(np.sqrt(2) if count > 1 else 0)


@given(st.integers(0, 2**32 - 1), st.integers(4, 300))
def test_the_box_holds_all_points_and_no_angle_does_better(seed, count):
    points = np.random.default_rng(seed).normal(size=(count, 3)) @ np.diag([3, 1, 1]) @ turned(0.5)
    box = volume.oriented_box(points, np.eye(3))
    local = np.abs((points - box.center) @ box.rotation.T)
    assert (local <= np.array([box.width, box.depth, box.height]) / 2 + 1e-9).all()
    best = min(np.prod(np.ptp(points[:, :2] @ turned(angle)[:2, :2].T, axis=0)) for angle in np.linspace(0, 1.6, 200))
    assert box.width * box.depth <= best / 0.98 + 1e-9


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.array([[0, np.nan, 0]]), np.array([[np.inf, 0, 0]])])
def test_no_points_or_not_finite_ones_are_refused(points):
    with pytest.raises(ValueError, match="needs points"):
        volume.oriented_box(points, np.eye(3))


def test_volume_between_height_fields():
    x, y = np.meshgrid(*[np.linspace(-1, 1, 400, endpoint=False) + 1 / 400] * 2)
    half = np.sqrt(np.clip(1 - x * x - y * y, 0, None))
    assert volume.between(-half, half, (2 / 400, 2 / 400)) == pytest.approx(4 / 3 * np.pi, rel=1e-3)
    assert volume.between(half, -half, (1, 1)) == 0


def test_a_box_is_json():
    box = volume.box_along(CORNERS, np.eye(3)).as_dict()
    assert box == {
        "center": [0, 0, 0],
        "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "width": 2,
        "depth": 2,
        "height": 2,
    }
