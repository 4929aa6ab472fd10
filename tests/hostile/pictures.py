"""Bytes that claim to be photos, and what must come of each: a reason, or `DETECTED` where pixels are in it."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from stream_worker.errors import Reason
from tests.integration.test_decode import encoded, header, picture, png

DETECTED = "detected"
MOST_PIXELS = 4_000_000
"""`images.max_pixels` of the run: so that what must be too large can be small."""


def pictures() -> dict[str, tuple[bytes, str]]:
    """Name: bytes, and a reason's value or `DETECTED`."""
    no_image, too_large = Reason.NOT_AN_IMAGE.value, Reason.TOO_LARGE.value
    row = zlib.compress(b"\x00" * 100)
    end = (b"IEND", b"")
    whole, jpeg = encoded(picture()), encoded(picture(), "JPEG")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    bomb = zlib.compress(b"\x00" * 200_000_000, 1)
    return {
        "empty": (b"", no_image),
        "html as image/png": (b"<!DOCTYPE html><html><script>alert(1)</script></html>", no_image),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', no_image),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", no_image),
        "heic": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100), no_image),
        "tiff": (encoded(picture(), "TIFF"), no_image),
        "gif, animated": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), no_image),
        "bmp": (encoded(picture(), "BMP"), no_image),
        "zip": (b"PK\x03\x04" + bytes(200), no_image),
        "png: 60000 x 60000 by its header": (png([header(60_000, 60_000), (b"IDAT", row), end]), too_large),
        "png: 1 x 65535": (
            png([header(1, 65_535), (b"IDAT", zlib.compress(b"\x00\x00\x00\x00" * 65_535)), end]),
            DETECTED,
        ),
        "png: 65536 x 1": (png([header(65_536, 1), (b"IDAT", row), end]), too_large),
        "png: small file of 100 megapixels": (_flat(10_000, 10_000), too_large),
        "png: nothing wide": (png([header(0, 10), (b"IDAT", row), end]), no_image),
        "png: text bomb": (
            png([header(1, 1), (b"zTXt", b"Comment\x00\x00" + bomb), (b"IDAT", zlib.compress(b"\x00" * 4)), end]),
            no_image,
        ),
        "png: colour profile bomb": (
            png([header(1, 1), (b"iCCP", b"x\x00\x00" + bomb), (b"IDAT", zlib.compress(b"\x00" * 4)), end]),
            no_image,
        ),
        "png: pixel data that never end": (png([header(10, 10), (b"IDAT", bomb), end]), DETECTED),
        "png: cut": (whole[: len(whole) // 2], no_image),
        "png: a wrong checksum": (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], no_image),
        "png: without pixels": (png([header(10, 10), end]), no_image),
        "png: 16 bit grey": (encoded(np.full((40, 60), 40_000, np.uint16)), DETECTED),
        "png: one bit": (encoded(Image.new("1", (60, 40))), DETECTED),
        "png: animated": (encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), DETECTED),
        "webp: animated": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), DETECTED),
        "webp: a header and no more": (b"RIFF\x00\x00\x00\x00WEBP", no_image),
        "jpeg: cut": (jpeg[: len(jpeg) // 2], no_image),
        "jpeg: start only": (b"\xff\xd8\xff", no_image),
        "jpeg: 65535 x 65535 by its header": (_jpeg_of(jpeg, 65_535, 65_535), too_large),
        "jpeg and zip at once": (jpeg + b"PK\x05\x06" + bytes(18), DETECTED),
        "jpeg: html in its comment": (_commented(jpeg, b"<script>alert(1)</script>"), DETECTED),
        "jpeg: an EXIF that lies": (
            jpeg[:2] + b"\xff\xe1\x00\x10Exif\x00\x00MM\x00*\xff\xff\xff\xff" + jpeg[2:],
            DETECTED,
        ),
    }


def _flat(width: int, height: int) -> bytes:
    """One colour: a hundred megapixels in 13 kB."""
    pressed = zlib.compressobj(9)
    rows = b"".join(pressed.compress(b"\x00" * (1 + (width + 7) // 8)) for _ in range(height))
    return png([header(width, height, depth=1, colour=0), (b"IDAT", rows + pressed.flush()), (b"IEND", b"")])


def _jpeg_of(jpeg: bytes, width: int, height: int) -> bytes:
    """The frame header says another size (ITU T.81, B.2.2)."""
    at = next(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in jpeg)
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def _commented(jpeg: bytes, comment: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]
