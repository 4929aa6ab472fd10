import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream_worker.geometry import rotations


def vectors(size):
    return hnp.arrays(np.float64, size, elements=st.floats(-1, 1)).filter(lambda v: np.linalg.norm(v) > 1e-3)


@given(vectors(4))
def test_a_rotation_survives_the_way_through_a_quaternion(parts):
    matrix = rotations.to_matrix(parts / np.linalg.norm(parts))
    assert np.linalg.det(matrix) == pytest.approx(1)
    quaternion = rotations.from_matrix(matrix)
    assert quaternion[0] >= -1e-9
    np.testing.assert_allclose(rotations.to_matrix(quaternion), matrix, atol=1e-9)


@pytest.mark.parametrize("axis", [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]])
def test_half_turns_are_no_special_case(axis):
    matrix = np.diag(np.array(axis, float))
    np.testing.assert_allclose(rotations.to_matrix(rotations.from_matrix(matrix)), matrix, atol=1e-12)


@given(vectors(3))
def test_the_z_axis_is_turned_into_the_normal(normal):
    normal = normal / np.linalg.norm(normal)
    quaternion = rotations.from_normals(normal[None])
    assert np.linalg.norm(quaternion) == pytest.approx(1)
    np.testing.assert_allclose(rotations.to_matrix(quaternion)[0, :, 2], normal, atol=1e-4)


def test_the_quaternion_of_a_known_turn():
    # A quarter turn about z takes x to y.
    quaternion = rotations.from_matrix(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]))
    np.testing.assert_allclose(quaternion, [np.sqrt(0.5), 0, 0, np.sqrt(0.5)], atol=1e-12)
