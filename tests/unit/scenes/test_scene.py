"""Rendered rooms: the same seed gives the same bytes, and masks are exactly what is seen."""

import subprocess
import sys

import numpy as np
import pytest

from stream_worker.scenes import CLASSES, render

SIZES = [(160, 120), (120, 160), (192, 108), (108, 192), (131, 97)]


def test_same_seed_gives_same_bytes() -> None:
    first, second = render(5, 160, 120), render(5, 160, 120)
    assert np.array_equal(first.rgb, second.rgb)
    assert np.array_equal(first.ids, second.ids)
    assert not np.array_equal(first.rgb, render(6, 160, 120).rgb)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_masks_are_the_id_buffer(width: int, height: int) -> None:
    seen = 0
    for seed in range(4):
        scene = render(seed, width, height, objects=6)
        assert scene.rgb.shape == (height, width, 3)
        assert scene.rgb.dtype == np.uint8
        assert scene.ids.shape == (height, width)
        total = np.zeros((height, width), np.int32)
        for found in scene.objects:
            assert found.mask.shape == (height, width)
            assert found.mask.dtype == np.bool_
            (number,) = np.unique(scene.ids[found.mask])
            assert number > 0
            assert np.array_equal(found.mask, scene.ids == number)
            total += found.mask
        assert total.max() <= 1
        assert np.array_equal(total > 0, scene.ids > 0)
        seen += len(scene.objects)
    assert seen > 8


def test_boxes_and_shares_fit_the_masks() -> None:
    for seed in range(6):
        for found in render(seed, 160, 120, objects=8).objects:
            x0, y0, x1, y1 = found.box
            assert 0 <= x0 < x1 <= 160
            assert 0 <= y0 < y1 <= 120
            inside = found.mask[y0:y1, x0:x1]
            assert inside.sum() == found.mask.sum()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            assert 0 < found.visible_share <= 1
            assert found.label in CLASSES


def test_occlusion_shows_in_the_visible_share() -> None:
    shares = [found.visible_share for seed in range(8) for found in render(seed, 96, 72, objects=9).objects]
    assert min(shares) < 0.95
    assert max(shares) == 1.0


def test_an_empty_room_has_no_objects() -> None:
    for seed in range(3):
        scene = render(seed, 96, 72, objects=0)
        assert scene.objects == ()
        assert not scene.ids.any()
        assert scene.rgb.std() > 3


def test_every_class_is_drawn() -> None:
    seen = {found.label for seed in range(40) for found in render(seed, 64, 48, objects=8).objects}
    assert seen == set(CLASSES)


@pytest.mark.parametrize(("width", "height", "objects"), [(31, 64, None), (64, 0, None), (64, 64, -1)])
def test_impossible_requests_are_refused(width: int, height: int, objects: int | None) -> None:
    with pytest.raises(ValueError, match="scene"):
        render(1, width, height, objects)


def test_rendering_needs_neither_torch_nor_opencv() -> None:
    code = (
        "import sys; from stream_worker.scenes import render; render(1, 64, 48);"
        "print(sorted({'torch', 'cv2', 'ultralytics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
