import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stream_worker.geometry import gaussians
from stream_worker.geometry.gaussians import Gaussians

HEADER = b"""ply
format binary_little_endian 1.0
element vertex %d
property float x
property float y
property float z
property float nx
property float ny
property float nz
property float f_dc_0
property float f_dc_1
property float f_dc_2
property float opacity
property float scale_0
property float scale_1
property float scale_2
property float rot_0
property float rot_1
property float rot_2
property float rot_3
end_header
"""


def split(table):
    return Gaussians(table[:, 0:3], table[:, 3:6], table[:, 6], table[:, 7:10], table[:, 10:14])


def numbered(count):
    return split(np.arange(1, count * 14 + 1, dtype=np.float32).reshape(count, 14))


def test_the_file_is_byte_for_byte_the_layout_of_3d_gaussian_splatting():
    values = [1, 2, 3, 0, 0, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert gaussians.to_ply(numbered(1)) == HEADER % 1 + struct.pack("<17f", *values)
    assert len(gaussians.to_ply(numbered(5))) == len(HEADER % 5) + 5 * 68


@given(st.integers(0, 20).flatmap(lambda n: hnp.arrays(np.float32, (n, 14), elements=st.floats(width=32))))
def test_gaussians_come_back_as_they_were(table):
    given_, back = split(table), gaussians.from_ply(gaussians.to_ply(split(table)))
    for name in ("positions", "sh_dc", "opacities", "scales", "rotations"):
        np.testing.assert_array_equal(getattr(back, name), getattr(given_, name))
        assert getattr(back, name).dtype == np.float32


def test_comments_in_the_header_are_passed_over():
    data = gaussians.to_ply(numbered(3)).replace(b"1.0\n", b"1.0\ncomment made elsewhere\n", 1)
    np.testing.assert_array_equal(gaussians.from_ply(data).positions, numbered(3).positions)


GOOD = gaussians.to_ply(numbered(3))


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"ply",
        b"\0" * 100,
        GOOD[:-1],
        GOOD + b"\0",
        GOOD[:40],
        GOOD.replace(b"vertex 3", b"vertex 4"),
        GOOD.replace(b"vertex 3", b"vertex 9999999999"),
        GOOD.replace(b"vertex 3", b"vertex 99999999999999999999"),
        GOOD.replace(b"vertex 3", b"vertex -3"),
        GOOD.replace(b"little", b"big"),
        GOOD.replace(b"float opacity", b"double opacity"),
        GOOD.replace(b"property float rot_3\n", b""),
        GOOD.replace(b"property float nx\nproperty float ny\n", b"property float ny\nproperty float nx\n"),
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"1.0\n", b"1.0\ncomment " + b"x" * 5000 + b"\n"),
    ],
    ids=range(16),
)
def test_a_file_that_is_cut_off_or_of_another_layout_is_refused(bad):
    with pytest.raises(ValueError, match="PLY"):
        gaussians.from_ply(bad)


@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_refused(length):
    with pytest.raises(ValueError, match="PLY"):
        gaussians.from_ply(GOOD[:length])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["positions", "sh_dc", "opacities", "scales", "rotations"])
def test_values_that_are_not_finite_are_refused(name, value):
    broken = getattr(numbered(4), name).copy()
    broken.flat[-1] = value
    with pytest.raises(ValueError, match=f"{name} holds a value that is not finite"):
        gaussians.check(replace(numbered(4), **{name: broken}))


def test_no_gaussians_wrong_shapes_and_zero_rotations_are_refused():
    gaussians.check(numbered(2))
    with pytest.raises(ValueError, match="no Gaussians"):
        gaussians.check(numbered(0))
    with pytest.raises(ValueError, match="scales has shape"):
        gaussians.check(replace(numbered(2), scales=numbered(3).scales))
    with pytest.raises(ValueError, match="rotation is zero"):
        gaussians.check(replace(numbered(2), rotations=np.zeros((2, 4), np.float32)))


def test_all_colours_survive_the_harmonics():
    colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    np.testing.assert_array_equal(gaussians.sh_dc_to_rgb(gaussians.rgb_to_sh_dc(colours)), colours)
    np.testing.assert_allclose(gaussians.SH_C0, np.sqrt(1 / (4 * np.pi)))
    assert gaussians.rgb_to_sh_dc(np.array([255], np.uint8))[0] == pytest.approx(0.5 / gaussians.SH_C0)


def test_points_are_small_and_show_what_can_be_seen() -> None:
    found = gaussians.Gaussians(
        positions=np.arange(9, dtype=np.float32).reshape(3, 3),
        sh_dc=gaussians.rgb_to_sh_dc(np.array([[255, 0, 10], [1, 2, 3], [9, 8, 7]], np.uint8)),
        opacities=np.array([4.0, -4.0, 0.0], np.float32),
        scales=np.zeros((3, 3), np.float32),
        rotations=np.ones((3, 4), np.float32),
    )
    head, _, body = gaussians.to_points_ply(found, 0.1).partition(b"end_header\n")
    assert b"element vertex 2\n" in head
    rows = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    assert rows["xyz"].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert rows["rgb"].tolist() == [[255, 0, 10], [9, 8, 7]]
    assert b"element vertex 3\n" in gaussians.to_points_ply(found)
