"""The way from a photo to the network's square and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.geometry.letterbox import Letterbox

sides = st.integers(1, 8000)
squares = st.sampled_from([32, 256, 320, 640, 1280])


@pytest.mark.parametrize(
    ("width", "height", "inner", "origin"),
    [
        (640, 640, (640, 640), (0, 0)),
        (1920, 1080, (640, 360), (0, 140)),
        (1080, 1920, (360, 640), (140, 0)),
        (800, 600, (640, 480), (0, 80)),
        (320, 240, (640, 480), (0, 80)),  # small photos are enlarged
        (1201, 777, (640, 414), (0, 113)),
        (1000, 1, (640, 1), (0, 319)),  # 319.5 of padding on either side; the odd row goes below
        (1, 4000, (1, 640), (319, 0)),
    ],
)
def test_known_letterboxes(width: int, height: int, inner: tuple[int, int], origin: tuple[int, int]) -> None:
    letterbox = Letterbox(width, height, 640)
    assert (letterbox.inner, letterbox.origin) == (inner, origin)


@given(width=sides, height=sides, size=squares)
def test_the_photo_lies_inside_the_square_and_its_corners_come_back(width: int, height: int, size: int) -> None:
    letterbox = Letterbox(width, height, size)
    (inner_width, inner_height), (left, top) = letterbox.inner, letterbox.origin
    assert max(inner_width, inner_height) == size
    assert left >= 0
    assert top >= 0
    assert left + inner_width <= size
    assert top + inner_height <= size
    corners = letterbox.boxes_to_photo(np.array([[left, top, left + inner_width, top + inner_height]]))
    assert np.allclose(corners, [[0, 0, width, height]])


@given(width=sides, height=sides, size=squares)
def test_a_box_over_the_padding_is_clipped_to_the_photo(width: int, height: int, size: int) -> None:
    boxes = Letterbox(width, height, size).boxes_to_photo(np.array([[-50.0, -50.0, size + 50.0, size + 50.0]]))
    assert boxes.tolist() == [[0, 0, width, height]]


@given(width=sides, height=sides, size=squares)
def test_the_outermost_cells_lie_on_the_photo(width: int, height: int, size: int) -> None:
    letterbox = Letterbox(width, height, size)
    for axis, full in zip(letterbox.grid_axes(size // 4, size // 4), (width, height), strict=True):
        assert 0 <= axis.first <= axis.last < size // 4
        if (axis.last - axis.first) > 1:  # else the photo is thinner than a cell
            first, last = ((cell - axis.offset) / axis.step + 0.5 for cell in (axis.first, axis.last))
            assert first >= -1e-6
            assert last <= full + 1e-6
