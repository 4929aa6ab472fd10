"""Untrusted bytes to upright RGB: the decoder's child, which has limits and nothing worth stealing.

It is a model like the others (`models.child.Model`), and imports only Pillow and NumPy.

What comes out is 8-bit RGB in the file's own colour numbers (colour profiles are not applied), the first
frame of an animation, turned as its EXIF orientation says, transparent parts laid on white.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import warnings
from typing import Any

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from stream_worker.models.protocol import ModelFault

FORMATS = ("JPEG", "PNG", "WEBP")

MAX_SIDE = 65_535
"""JPEG's own limit. A PNG of 40 million x 1 pixels would pass the limit of pixels and break what follows."""

EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, 4.6.4 A: where the 0th row and the 0th column of the file are in the upright picture."""

_ROWS = 512
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}


class Decoding:
    """Decodes one file a task: `{"targets": [path, ...]}` and the bytes in, `{"target", "width", "height"}` out.

    The pixels go to the first target that has room, as height x width x 3 uint8.

    Faults: `not_an_image`, `too_large`, `decode_failed` (out of memory), `out_of_space`.
    """

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Take `max_pixels` (width x height)."""
        self._max_pixels = int(options["max_pixels"])
        Image.MAX_IMAGE_PIXELS = self._max_pixels
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return {"model": "pillow", "version": PIL.__version__}

    def warm_up(self) -> None:
        """Import the formats' plugins, which Pillow does at the first `open`."""
        Image.init()

    def infer(self, task: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            upright = self._decode(payload)
            width, height = upright.size
            return {"target": _write(upright, task["targets"]), "width": width, "height": height}, b""
        except MemoryError:
            raise ModelFault("decode_failed", "decoding takes more memory than it may have") from None

    def _decode(self, data: bytes) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            self._check_size(*image.size)
            image.load()
            return to_rgb(to_upright(image))
        except (ModelFault, MemoryError):
            raise
        except UnidentifiedImageError:
            raise ModelFault("not_an_image", _what_it_is(data)) from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ModelFault("too_large", f"more than the limit of {self._max_pixels} pixels") from None
        except Exception as error:  # noqa: BLE001  (plugins raise whatever broken bytes lead them to)
            raise ModelFault("not_an_image", f"a broken image: {str(error)[:200] or type(error).__name__}") from None

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels or max(width, height) > MAX_SIDE:
            raise ModelFault(
                "too_large",
                f"{width} x {height} pixels; the limit is {self._max_pixels} in all, {MAX_SIDE} a side",
            )


def to_upright(image: Image.Image) -> Image.Image:
    """The image as it is to be looked at. An orientation that can't be read counts as none."""
    orientation: object = 1
    with contextlib.suppress(Exception):  # EXIF is often broken where the image is not
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode that JPEG, PNG and WebP decode to, as 8-bit RGB.

    CMYK is taken as Adobe writes it (inverted, which Pillow undoes), without a profile. Transparent parts
    show white: what a viewer of the photo sees, not the hidden colours below.
    """
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion clips all above 255 to white
        return _from_grey16(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_grey16(image: Image.Image) -> Image.Image:
    """v * 255 / 65535, rounded (PNG specification, 13.12), in strips: it takes 8 bytes a pixel."""
    width, height = image.size
    transparent = image.info.get("transparency")
    grey = np.empty((height, width), dtype=np.uint8)
    for top in range(0, height, _ROWS):
        bottom = min(height, top + _ROWS)
        strip = np.asarray(image.crop((0, top, width, bottom))).astype(np.uint32)
        grey[top:bottom] = (strip * 255 + 32_767) // 65_535
        if isinstance(transparent, int):
            grey[top:bottom][strip == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _write(image: Image.Image, targets: list[str]) -> int:
    """Write the pixels to the first target with room; its index."""
    size = image.width * image.height * 3
    for index, target in enumerate(targets):
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                for top in range(0, image.height, _ROWS):
                    bottom = min(image.height, top + _ROWS)
                    file.write(image.crop((0, top, image.width, bottom)).tobytes())
            return index
        except OSError as error:
            os.unlink(target)
            if error.errno not in _NO_SPACE:
                raise
        finally:
            os.close(fd)
    raise ModelFault("out_of_space", f"no room for {size} bytes of pixels in shared memory or the temporary folder")


def _what_it_is(data: bytes) -> str:
    if not data:
        return "the file is empty"
    return f"not a JPEG, PNG or WebP: it starts with {data[:16]!r}"
