"""Pictures for the report: a photo, and a layer for each mask, as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from stream_worker.events import Mask
from stream_worker.geometry import masks

LONGEST = 960
"""Pixels of a drawn photo's longer side."""

TINTS = (
    *("#ff5d5d", "#3fa7ff", "#3ecf8e", "#ffb020", "#b57bff", "#ff7ac6"),
    *("#27c4d9", "#9bd13c", "#ff8a4c", "#7d8cff", "#d9b44a", "#4fd6b8"),
)
_FILL = 0.3
_OUTLINE = 5  # pixels of the filter: a line of two on either side of the edge


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture as a data URI. `left`, `top`, `width` and `height` are percent of the photo that it lies on."""

    uri: str
    left: float = 0.0
    top: float = 0.0
    width: float = 100.0
    height: float = 100.0


def tint(index: int) -> str:
    """The colour of the object with that index, as #rrggbb."""
    return TINTS[index % len(TINTS)]


def photo(path: Path, width: int, height: int, longest: int = LONGEST) -> Drawn:
    """The photo, upright, as JPEG. `width` and `height` are its upright size in pixels, as the decoder found it.

    Raises ValueError where the file no longer holds a picture of that size: it is only opened because the service's
    sandboxed decoder has passed it, so it must be the same.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            if sorted(image.size) != sorted((width, height)):
                raise ValueError(f"{path.name} is not the photo that was processed")
            image.draft("RGB", _fit(*image.size, longest))
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} can't be drawn: {error}") from None
    out = io.BytesIO()
    upright.resize(_fit(width, height, longest), Image.Resampling.LANCZOS).save(out, "JPEG", quality=82, optimize=True)
    return Drawn(_uri("image/jpeg", out.getvalue()))


def mask_layer(mask: Mask, colour: str, longest: int = LONGEST) -> Drawn | None:
    """The mask as a translucent layer with an outline, cut to its box; None for an empty mask.

    Raises ValueError for a malformed mask.
    """
    rle = mask.model_dump()
    pixels = masks.decode(rle)
    if not pixels.any():
        return None
    height, width = pixels.shape
    small = _fit(width, height, longest)
    fill = Image.fromarray(pixels.astype(np.uint8) * 255).resize(small, Image.Resampling.BOX)
    edge = np.subtract(
        np.asarray(fill.filter(ImageFilter.MaxFilter(_OUTLINE)), np.int16),
        np.asarray(fill.filter(ImageFilter.MinFilter(_OUTLINE)), np.int16),
    )
    alpha = np.maximum(np.asarray(fill) * _FILL, edge).astype(np.uint8)
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not rows.size:  # thinner than a pixel of the drawing
        return None
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return Drawn(
        _layer(alpha[top:bottom, left:right], colour),
        100 * left / small[0],
        100 * top / small[1],
        100 * (right - left) / small[0],
        100 * (bottom - top) / small[1],
    )


def _layer(alpha: np.ndarray[tuple[int, int], np.dtype[np.uint8]], colour: str) -> str:
    """A PNG of one colour: a palette of that colour alone, whose entries differ in opacity."""
    steps = (alpha // 17).astype(np.uint8)  # sixteen are enough, and compress well
    image = Image.fromarray(steps)
    image.putpalette([int(colour[at : at + 2], 16) for at in (1, 3, 5)] * 16)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True, transparency=bytes(range(0, 256, 17)))
    return _uri("image/png", out.getvalue())


def _fit(width: int, height: int, longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
