import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from stream_worker.geometry import masks


def decoded_or_refused(rle):
    """The mask, or None if it was refused with one clear line; any other outcome fails."""
    try:
        return masks.decode(rle)
    except ValueError as error:
        if not re.fullmatch(r"mask: [^\n]+", str(error)):
            raise
        return None


any_mask = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(any_mask)
def test_a_mask_comes_back_as_it_was(mask):
    rle = masks.encode(mask)
    assert np.array_equal(masks.decode(rle), mask)
    assert masks.validate(rle) == rle


@given(any_mask)
def test_encoding_is_that_of_cocos_own_tool(mask):
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    assert masks.encode(mask) == {"size": theirs["size"], "counts": theirs["counts"].decode()}


@given(any_mask)
def test_area_and_box_are_those_of_the_pixels(mask):
    rle = masks.encode(mask)
    assert masks.area(rle) == mask.sum()
    if not mask.any():
        assert masks.box(rle) == (0, 0, 0, 0)
        return
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert masks.box(rle) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


@given(st.integers(1, 60), st.integers(1, 60), st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=40))
def test_whatever_the_counts_a_mask_is_refused_or_decoded_in_full(height, width, counts):
    mask = decoded_or_refused({"size": [height, width], "counts": counts})
    if mask is not None:
        assert mask.shape == (height, width)
        assert np.array_equal(masks.decode(masks.encode(mask)), mask)


@given(any_mask, st.data())
def test_a_mask_with_one_character_changed_is_refused_or_still_fills_its_size(mask, data):
    rle = masks.encode(mask)
    at = data.draw(st.integers(0, len(rle["counts"]) - 1))
    character = chr(data.draw(st.integers(48, 111)))
    changed = {"size": rle["size"], "counts": rle["counts"][:at] + character + rle["counts"][at + 1 :]}
    decoded = decoded_or_refused(changed)
    assert decoded is None or decoded.shape == mask.shape


GOOD = masks.encode(np.eye(7, 5, dtype=bool))


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"size": [7, 5]},
        {"counts": GOOD["counts"]},
        {"size": [5, 5], "counts": GOOD["counts"]},
        {"size": [7, 6], "counts": GOOD["counts"]},
        {"size": [0, 5], "counts": GOOD["counts"]},
        {"size": [-7, -5], "counts": GOOD["counts"]},
        {"size": [7], "counts": GOOD["counts"]},
        {"size": [7.0, 5.0], "counts": GOOD["counts"]},
        {"size": [True, 35], "counts": GOOD["counts"]},
        {"size": "75", "counts": GOOD["counts"]},
        {"size": [10**9, 10**9], "counts": GOOD["counts"]},
        {"size": [7, 5], "counts": ""},
        {"size": [7, 5], "counts": b"0"},
        {"size": [7, 5], "counts": [35]},
        {"size": [7, 5], "counts": "é"},
        {"size": [7, 5], "counts": "\0" + GOOD["counts"]},
        {"size": [7, 5], "counts": GOOD["counts"] + "\0"},
        {"size": [7, 5], "counts": GOOD["counts"] + "p"},
        {"size": [7, 5], "counts": "o"},
        {"size": [7, 5], "counts": "oooooo0"},
        {"size": [7, 5], "counts": "@"},
        {"size": [7, 5], "counts": "S1000000"},
        {"size": [7, 5], "counts": "o" * (masks.MAX_COUNTS + 1)},
    ],
    ids=lambda bad: str(bad)[:50],
)
def test_a_hostile_mask_is_refused_with_one_line(bad):
    for read in (masks.validate, masks.decode, masks.area, masks.box):
        with pytest.raises(ValueError, match=r"\Amask: [^\n]{1,200}\Z"):
            read(bad)


def test_runs_that_cancel_out_are_refused():
    # 20 - 5 + 20 is 35: the sum alone would let the C code step out of its buffer.
    assert masks._runs("d0Kd0").tolist() == [20, -5, 20]
    with pytest.raises(ValueError, match="run length"):
        masks.decode({"size": [7, 5], "counts": "d0Kd0"})


def test_the_callers_limit_of_pixels_holds():
    rle = masks.encode(np.ones((10, 10), bool))
    assert masks.validate(rle, max_pixels=100) == rle
    with pytest.raises(ValueError, match="outside 1 to 99"):
        masks.validate(rle, max_pixels=99)


@pytest.mark.parametrize("mask", [np.zeros((0, 3), bool), np.zeros((3, 3), np.uint8), np.zeros(3, bool)])
def test_only_a_boolean_picture_is_encoded(mask):
    with pytest.raises(ValueError, match="bool array"):
        masks.encode(mask)


def test_a_full_mask_of_twelve_megapixels_is_read():
    rle = masks.encode(np.ones((3000, 4000), bool))
    assert masks.area(rle) == 12_000_000
    assert masks.box(rle) == (0, 0, 4000, 3000)
