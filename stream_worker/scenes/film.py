"""From light to a photograph: exposure, lens, sensor noise, JPEG."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageFilter

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def develop(rng: Generator, radiance: Floats, exposure: float) -> Pixels:
    """An upright RGB uint8 image (height, width, 3) of linear radiance (3, height, width)."""
    _, height, width = radiance.shape
    light = radiance * np.float32(exposure * 1.25)
    balance = 1 + rng.normal(0, 0.03, 3).astype(np.float32)
    light *= balance[:, None, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light *= 1 - np.float32(rng.uniform(0, 0.16)) * (x * x + y * y)
    # A filmic shoulder: straight up to mid grey, then bending towards white (Hable-like rational curve).
    light = np.maximum(light, 0)
    light = light * (1 + light * np.float32(0.18)) / (1 + light * np.float32(0.62))
    picture = np.minimum(light, 1) ** np.float32(1 / 2.2)
    noise = rng.standard_normal((height, width, 3), dtype=np.float32).transpose(2, 0, 1)
    level = rng.uniform(0.002, 0.02) * (1.6 if rng.random() < 0.1 else 1)
    picture += noise * np.float32(level) * (1.2 - 0.7 * picture)
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    blur = rng.uniform(0, 0.55) if rng.random() < 0.85 else rng.uniform(0.55, 1.1)
    if blur > 0.2:
        image = image.filter(ImageFilter.GaussianBlur(blur * max(width, height) / 800))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(62, 97)))
    return np.asarray(Image.open(buffer).convert("RGB"))
