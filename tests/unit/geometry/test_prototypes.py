"""Masks of known shape through the network's square and its coarse grid, and back to the photo's pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stream_worker.geometry import masks
from stream_worker.geometry.letterbox import Letterbox
from stream_worker.geometry.prototypes import Runs, full_resolution_mask
from stream_worker.scenes import render

SIZES = [
    (1920, 1080),
    (1080, 1920),
    (1600, 1200),
    (1200, 1600),
    (640, 640),
    (1201, 777),
    (777, 1201),
    (1919, 1079),
    (333, 1000),
    (4001, 2999),
    (300, 200),
]


def ellipse(
    width: int, height: int, cx: float, cy: float, rx: float, ry: float, turn: float = 0.0
) -> NDArray[np.bool_]:
    """An ellipse whose centre and radii are given as parts of the shorter side, turned by `turn` radians."""
    short = min(width, height)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    x, y = (x - cx * width) / short, (y - cy * height) / short
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside: NDArray[np.bool_] = (x / rx) ** 2 + (y / ry) ** 2 <= 1
    return inside


def as_network(truth: NDArray[np.bool_], letterbox: Letterbox, stride: int = 4) -> NDArray[np.float32]:
    """The logits of a network that is right about everything it can see: what share of each cell is inside."""
    square = Image.new("L", (letterbox.size, letterbox.size))
    resized = Image.fromarray(truth.astype(np.uint8) * 255).resize(letterbox.inner, Image.Resampling.BOX)
    square.paste(resized, letterbox.origin)
    cells = letterbox.size // stride
    shares = np.asarray(square, dtype=np.float32).reshape(cells, stride, cells, stride).mean(axis=(1, 3)) / 255
    return ((shares - 0.5) * 12).astype(np.float32)


def bounds(truth: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(
    "shape",
    [
        {"cx": 0.5, "cy": 0.5, "rx": 0.3, "ry": 0.2},
        {"cx": 0.4, "cy": 0.6, "rx": 0.35, "ry": 0.15, "turn": 0.7},
        {"cx": 0.02, "cy": 0.5, "rx": 0.3, "ry": 0.3},  # cut by the left edge
        {"cx": 0.5, "cy": 1.0, "rx": 0.3, "ry": 0.3},  # cut by the lower edge
        {"cx": 0.8, "cy": 0.2, "rx": 0.12, "ry": 0.15},
    ],
    ids=["centre", "turned", "left edge", "lower edge", "small"],
)
def test_a_known_mask_comes_back(width: int, height: int, shape: dict[str, float]) -> None:
    truth = ellipse(width, height, **shape)
    letterbox = Letterbox(width, height, 640)
    found = full_resolution_mask(as_network(truth, letterbox), bounds(truth), letterbox)
    assert iou(masks.decode(found.rle()), truth) >= 0.985


def breadth(truth: NDArray[np.bool_], letterbox: Letterbox) -> float:
    """Area over outline, in pixels of the network: half the width of a long strip, a quarter of a square's side."""
    steps = truth.astype(np.int8)
    outline = np.abs(np.diff(steps, axis=0)).sum() + np.abs(np.diff(steps, axis=1)).sum()
    return float(truth.sum() / max(1, outline) * letterbox.size / max(truth.shape))


@pytest.mark.parametrize(
    ("width", "height", "seed"),
    [(1280, 720, 400), (1024, 768, 403), (720, 1280, 406), (1001, 777, 409), (1919, 1079, 412)],
    ids=["16:9", "4:3", "9:16", "odd", "large and odd"],
)
def test_rendered_furniture_comes_back(width: int, height: int, seed: int) -> None:
    """Exact masks of rendered rooms. The prototypes' cells are 4 pixels of the network: what is thinner than a few
    of them (lamp posts, the boards of an open shelf) can't come back whole, whoever assembles the mask."""
    letterbox = Letterbox(width, height, 640)
    truths = [one.mask for number in range(3) for one in render(seed + number, width, height).objects]
    broad = [truth for truth in truths if breadth(truth, letterbox) >= 10]
    assert len(broad) >= 3, "too few broad objects to tell anything"
    for truth in broad:
        found = full_resolution_mask(as_network(truth, letterbox), bounds(truth), letterbox)
        assert iou(masks.decode(found.rle()), truth) >= 0.97


def test_an_object_that_fills_the_photo_has_no_rim() -> None:
    truth = np.ones((1080, 1920), dtype=np.bool_)
    letterbox = Letterbox(1920, 1080, 640)
    found = full_resolution_mask(as_network(truth, letterbox), (0, 0, 1920, 1080), letterbox)
    assert found.area == 1080 * 1920
    assert found.rle() == masks.encode(truth)


def test_only_pixels_whose_centres_are_in_the_box_are_kept() -> None:
    everywhere = np.ones((160, 160), dtype=np.float32)
    found = full_resolution_mask(everywhere, (10.4, 20.6, 30.5, 40.49), Letterbox(640, 480, 640))
    wanted = np.zeros((480, 640), dtype=np.bool_)
    wanted[21:40, 10:30] = True
    assert found.rle() == masks.encode(wanted)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 5.2, 5.2), (700, 5, 800, 9), (-9, -9, -2, -2), (9, 9, 5, 5)])
def test_an_empty_box_gives_an_empty_mask(box: tuple[float, float, float, float]) -> None:
    found = full_resolution_mask(np.ones((160, 160), dtype=np.float32), box, Letterbox(640, 480, 640))
    assert found.area == 0
    assert found.rle() == masks.encode(np.zeros((480, 640), dtype=np.bool_))


def interpolated(logits: NDArray[np.float32], letterbox: Letterbox) -> NDArray[np.float64]:
    """What the mask is defined by: the logits between the cells, at the centre of each pixel of the photo."""
    horizontal, vertical = letterbox.grid_axes(*logits.shape)
    x = np.clip(np.arange(letterbox.width) * horizontal.step + horizontal.offset, horizontal.first, horizontal.last)
    y = np.clip(np.arange(letterbox.height) * vertical.step + vertical.offset, vertical.first, vertical.last)
    column, row = x.astype(int), y.astype(int)
    right, below = np.minimum(column + 1, logits.shape[1] - 1), np.minimum(row + 1, logits.shape[0] - 1)
    x, y = x - column, (y - row)[:, None]
    at = logits.astype(np.float64)
    upper = at[row][:, column] * (1 - x) + at[row][:, right] * x
    lower = at[below][:, column] * (1 - x) + at[below][:, right] * x
    smooth: NDArray[np.float64] = upper * (1 - y) + lower * y
    return smooth


@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.sampled_from([32, 64, 160]),
    corners=st.lists(st.floats(-5, 95), min_size=4, max_size=4),
)
def test_each_pixel_is_inside_where_the_interpolated_logits_are_positive(
    seed: int, width: int, height: int, size: int, corners: list[float]
) -> None:
    logits = np.random.default_rng(seed).normal(size=(size // 4, size // 4)).astype(np.float32)
    letterbox = Letterbox(width, height, size)
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    found = full_resolution_mask(logits, (x0, y0, x1, y1), letterbox)
    smooth = interpolated(logits, letterbox)
    x, y = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    wanted = (smooth > 0) & (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    mask = masks.decode(found.rle())
    assert (mask == wanted)[np.abs(smooth) > 1e-5].all()
    assert found.area == mask.sum()


def test_zero_is_outside() -> None:
    found = full_resolution_mask(np.zeros((40, 40), dtype=np.float32), (0, 0, 100, 100), Letterbox(100, 100, 160))
    assert found.area == 0


@given(data=st.data(), height=st.integers(1, 12), width=st.integers(1, 12))
def test_run_lengths_are_those_of_the_whole_mask(data: st.DataObject, height: int, width: int) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    whole = np.array(bits, dtype=np.bool_).reshape(height, width)
    changes = np.flatnonzero(np.diff(whole.T.reshape(-1).astype(np.int8), prepend=0, append=0))
    found = Runs(height, width, changes.astype(np.int64))
    assert found.rle() == masks.encode(whole)
    assert found.area == whole.sum()
