"""Photos and masks as pictures in a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stream_worker.demo import drawing
from stream_worker.demo.photos import Room, render_rooms
from stream_worker.events import Mask
from stream_worker.geometry import masks


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_photo_is_drawn_upright_and_small(tmp_path: Path) -> None:
    path = render_rooms(tmp_path, (Room("side.jpg", 3, 300, 600, sideways=True),))["side.jpg"]
    drawn = drawing.photo(path, 300, 600, longest=200)
    with opened(drawn.uri) as image:
        assert image.format == "JPEG"
        assert image.size == (100, 200)


def test_a_file_that_changed_since_is_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (30, 40)).save(path)
    with pytest.raises(ValueError, match="not the photo"):
        drawing.photo(path, 30, 41)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"photo\.jpg"):
        drawing.photo(path, 30, 40)


def test_a_mask_lies_where_it_was(tmp_path: Path) -> None:
    mask = np.zeros((400, 1600), bool)
    mask[100:300, 400:1200] = True
    layer = drawing.mask_layer(Mask(**masks.encode(mask)), "#ff8000", longest=800)
    assert layer is not None
    assert (layer.left, layer.top) == pytest.approx((25, 25), abs=1.5)
    assert (layer.width, layer.height) == pytest.approx((50, 50), abs=3)
    with opened(layer.uri) as image:
        pixels = np.asarray(image.convert("RGBA"))
    middle, edge = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2], pixels[pixels.shape[0] // 2, 1]
    assert tuple(middle[:3]) == (255, 128, 0)
    assert 50 < middle[3] < 110, "the photo shows through"
    assert edge[3] > 200, "the outline does not"


def test_an_empty_mask_is_no_layer() -> None:
    assert drawing.mask_layer(Mask(**masks.encode(np.zeros((8, 8), bool))), "#ffffff") is None


def test_a_malformed_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        drawing.mask_layer(Mask(size=[8, 8], counts="\x00"), "#ffffff")
