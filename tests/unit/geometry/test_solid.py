"""The volume of bodies of which only points on the surface are known."""

from __future__ import annotations

import numpy as np
import pytest

from stream_worker.geometry.solid import CELLS, enclosed, volume_of_shell

COUNT = 60_000


def sphere(count: int = COUNT) -> np.ndarray:
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    angle = np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - z * z)
    return np.stack((ring * np.cos(angle), ring * np.sin(angle), z), axis=1)


def faces(size: tuple[float, float, float], without: tuple[int, ...] = ()) -> np.ndarray:
    """Points on the six faces of a box with a corner at the origin: low and high x, low and high y, low and high z."""
    numbers = np.random.default_rng(1)
    points = []
    for face in range(6):
        if face in without:
            continue
        some = numbers.random((COUNT, 3)) * size
        some[:, face // 2] = (face % 2) * size[face // 2]
        points.append(some)
    return np.concatenate(points)


@pytest.mark.parametrize("radii", [(1.0, 1.0, 1.0), (1.0, 0.6, 0.3), (0.2, 1.0, 0.4)])
@pytest.mark.parametrize(("count", "error"), [(200_000, 0.03), (60_000, 0.04), (3_000, 0.16)])
def test_an_ellipsoid(radii: tuple[float, float, float], count: int, error: float) -> None:
    """Points at random, as a model gives them: where they are few, the shell must not fall apart."""
    on_sphere = np.random.default_rng(3).normal(size=(count, 3))
    on_sphere /= np.linalg.norm(on_sphere, axis=1, keepdims=True)
    volume = volume_of_shell(on_sphere * radii)
    assert volume == pytest.approx(4 / 3 * np.pi * np.prod(radii), rel=error)


def test_it_grows_with_the_cube_of_the_size_and_does_not_care_where_it_is() -> None:
    points = sphere(20_000)
    assert volume_of_shell(5 * points + 100) == pytest.approx(125 * volume_of_shell(points), rel=1e-3)


def test_a_closed_box_is_full_and_an_open_one_is_not() -> None:
    closed, open_ = volume_of_shell(faces((1, 0.8, 0.6))), volume_of_shell(faces((1, 0.8, 0.6), without=(5,)))
    assert closed == pytest.approx(1 * 0.8 * 0.6, rel=0.05)
    assert open_ < 0.2 * closed


def test_a_small_hole_lets_nothing_out() -> None:
    points = sphere()
    holed = points[np.linalg.norm(points - [0, 0, 1], axis=1) > 0.15]
    assert volume_of_shell(holed) == pytest.approx(volume_of_shell(points), rel=0.03)


def test_enclosed_by_hand() -> None:
    shell = np.zeros((5, 5, 5), bool)
    shell[1:4, 1:4, 1:4] = True
    shell[2, 2, 2] = False
    assert np.argwhere(enclosed(shell) & ~shell).tolist() == [[2, 2, 2]]
    shell[2, 2, 3] = False  # open towards one side
    assert not (enclosed(shell) & ~shell).any()


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.array([[0, 0, np.nan]]), np.array([[0, np.inf, 0]])])
def test_points_that_are_none(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="points"):
        volume_of_shell(points)


def test_a_single_point_has_no_volume() -> None:
    assert volume_of_shell(np.ones((CELLS, 3))) == 0.0
