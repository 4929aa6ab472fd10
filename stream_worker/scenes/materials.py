"""What surfaces look like: procedural colour patterns over surface coordinates, in linear RGB."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Colour = tuple[float, float, float]

TILE = 512


@dataclass(frozen=True, slots=True)
class Material:
    """A surface. Colours are linear RGB, `scale` is the pattern's size in metres, `turn` swaps its two axes."""

    pattern: str
    colour: Colour
    second: Colour = (0.5, 0.5, 0.5)
    scale: float = 0.1
    amount: float = 0.1
    turn: bool = False
    gloss: float = 0.0
    shine: float = 30.0
    glow: float = 0.0
    phase: tuple[float, float] = (0.0, 0.0)


def linear(red: float, green: float, blue: float) -> Colour:
    """Linear RGB of display (gamma 2.2) values in 0..1."""
    return (max(red, 0.0) ** 2.2, max(green, 0.0) ** 2.2, max(blue, 0.0) ** 2.2)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Linear RGB of a display colour given as hue, saturation and value, each in 0..1."""
    sector = (hue % 1.0) * 6
    channels = [
        value * (1 - saturation * max(0.0, min(1.0, min(k, 4 - k)))) for k in ((n + sector) % 6 for n in (5, 3, 1))
    ]
    return linear(*channels)


@cache
def _cloud() -> Floats:
    """A tileable field of 1/f noise, TILE x TILE, mean 0, mostly within -1..1."""
    rng = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :]) * TILE
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE))) / np.maximum(frequency, 2.0) ** 1.3
    field = np.fft.irfft2(spectrum)
    result: Floats = np.clip(field / (2 * field.std()), -1.2, 1.2).astype(np.float32)
    return result


@cache
def _grain() -> Floats:
    """Independent values in -1..1, TILE x TILE, softened a little so that cells do not show."""
    field = np.random.default_rng(8).uniform(-1, 1, (TILE, TILE))
    field = (2 * field + np.roll(field, 1, 0) + np.roll(field, 1, 1)) / 2.4
    return np.clip(field, -1, 1).astype(np.float32)


def _at(table: Floats, u: Floats, v: Floats) -> Floats:
    result: Floats = table[np.floor(v).astype(np.int32) & (TILE - 1), np.floor(u).astype(np.int32) & (TILE - 1)]
    return result


def _smooth(u: Floats, v: Floats) -> Floats:
    """Bilinear look-up of the cloud, for magnified patterns."""
    u0, v0 = np.floor(u), np.floor(v)
    fu, fv = u - u0, v - v0
    table = _cloud()
    x0, y0 = u0.astype(np.int32) & (TILE - 1), v0.astype(np.int32) & (TILE - 1)
    x1, y1 = (x0 + 1) & (TILE - 1), (y0 + 1) & (TILE - 1)
    upper = table[y0, x0] * (1 - fu) + table[y0, x1] * fu
    lower = table[y1, x0] * (1 - fu) + table[y1, x1] * fu
    result: Floats = upper * (1 - fv) + lower * fv
    return result


def _mix(first: Colour, second: Colour, share: Floats) -> Floats:
    a = np.array(first, np.float32)[:, None]
    b = np.array(second, np.float32)[:, None]
    result: Floats = a + (b - a) * share
    return result


def _flat(colour: Colour, factor: Floats) -> Floats:
    result: Floats = np.array(colour, np.float32)[:, None] * factor
    return result


def paint(material: Material, u: Floats, v: Floats) -> Floats:
    """Linear RGB, (3, n), at surface coordinates u and v in metres."""
    if material.turn:
        u, v = v, u
    u = u + np.float32(material.phase[0])
    v = v + np.float32(material.phase[1])
    return _PATTERNS[material.pattern](material, u, v)


def _plain(m: Material, u: Floats, v: Floats) -> Floats:
    return _flat(m.colour, 1 + np.float32(m.amount) * _smooth(u * 90, v * 90))


def _wood_value(u: Floats, v: Floats, scale: float) -> Floats:
    wander = _smooth(u * (12 / scale * 0.1), v * (90 / scale * 0.1))
    rings = np.sin(v * np.float32(6.0 / scale) + wander * np.float32(5.0))
    fibre = _at(_grain(), u * 60, v * 900)
    result: Floats = np.clip(0.5 + 0.28 * rings + 0.3 * wander + 0.18 * fibre, 0, 1)
    return result


def _wood(m: Material, u: Floats, v: Floats) -> Floats:
    return _mix(m.colour, m.second, _wood_value(u, v, m.scale))


def _fabric(m: Material, u: Floats, v: Floats) -> Floats:
    weave = _at(_grain(), u * 420, v * 420)
    fold = _smooth(u * 50, v * 50)
    return _flat(m.colour, np.maximum(1 + np.float32(m.amount) * (weave + 0.7 * fold), 0.1))


def _stripes(m: Material, u: Floats, v: Floats) -> Floats:
    band = np.sin(u * np.float32(2 * np.pi / m.scale))
    share = np.clip(0.5 + band * 6, 0, 1)
    return _mix(m.colour, m.second, share) * (1 + 0.08 * _at(_grain(), u * 400, v * 400))


def _checks(m: Material, u: Floats, v: Floats) -> Floats:
    cell = np.floor(u / np.float32(m.scale)) + np.floor(v / np.float32(m.scale))
    return _mix(m.colour, m.second, (cell % 2).astype(np.float32)) * (1 + 0.06 * _at(_grain(), u * 400, v * 400))


def _dots(m: Material, u: Floats, v: Floats) -> Floats:
    x = (u / np.float32(m.scale)) % 1 - 0.5
    y = (v / np.float32(m.scale)) % 1 - 0.5
    share = np.clip((0.3 - np.sqrt(x * x + y * y)) * 12, 0, 1)
    return _mix(m.colour, m.second, share)


def _planks(m: Material, u: Floats, v: Floats) -> Floats:
    row = np.floor(v / np.float32(m.scale))
    shift = _at(_grain(), row * 7, row * 0 + 3)
    length = np.float32(m.scale * 8)
    along = u / length + shift * 3
    tone = _at(_grain(), np.floor(along) * 5 + row * 17, row * 11)
    value = _wood_value(u + row * 3.1, v, 0.06)
    colour = _mix(m.colour, m.second, np.clip(0.55 * value + 0.25 + 0.3 * tone, 0, 1))
    seam = np.minimum((v / np.float32(m.scale)) % 1 * np.float32(m.scale), along % 1 * length)
    result: Floats = colour * np.clip(0.45 + seam * 180, 0, 1)
    return result


def _tiles(m: Material, u: Floats, v: Floats) -> Floats:
    x, y = u / np.float32(m.scale), v / np.float32(m.scale)
    tone = _at(_grain(), np.floor(x) * 3, np.floor(y) * 5)
    joint = np.minimum(np.minimum(x % 1, 1 - x % 1), np.minimum(y % 1, 1 - y % 1)) * np.float32(m.scale)
    marble = _smooth(u * 110 + tone * 90, v * 110)
    face = _flat(m.colour, 1 + np.float32(m.amount) * (tone + marble))
    share = np.clip((joint - 0.003) * 400, 0, 1)
    result: Floats = np.array(m.second, np.float32)[:, None] * (1 - share) + face * share
    return result


def _bricks(m: Material, u: Floats, v: Floats) -> Floats:
    row = np.floor(v / np.float32(m.scale * 0.35))
    x = u / np.float32(m.scale) + (row % 2) * 0.5
    y = v / np.float32(m.scale * 0.35)
    tone = _at(_grain(), np.floor(x) * 3, row * 5)
    joint = np.minimum(np.minimum(x % 1, 1 - x % 1) * 3, np.minimum(y % 1, 1 - y % 1))
    face = _flat(m.colour, 1 + 0.3 * tone + 0.25 * _smooth(u * 200, v * 200))
    share = np.clip((joint - 0.06) * 14, 0, 1)
    result: Floats = np.array(m.second, np.float32)[:, None] * (1 - share) + face * share
    return result


def _carpet(m: Material, u: Floats, v: Floats) -> Floats:
    pile = _at(_grain(), u * 260, v * 260) + _at(_grain(), u * 90, v * 90)
    return _flat(m.colour, np.maximum(1 + np.float32(m.amount) * (pile + _smooth(u * 30, v * 30)), 0.1))


def _lampshade(m: Material, u: Floats, v: Floats) -> Floats:
    """Brightest where the bulb is, in the middle of its height."""
    near = np.exp(-((v / np.float32(m.scale)) ** 2))
    return _flat(m.colour, (0.62 + 0.5 * near) * (1 + 0.04 * _at(_grain(), u * 420, v * 420)))


def _cardboard(m: Material, u: Floats, v: Floats) -> Floats:
    flute = np.sin(u * np.float32(900)) * 0.03
    return _flat(m.colour, 1 + flute + 0.07 * _smooth(u * 120, v * 120) + 0.04 * _at(_grain(), u * 300, v * 300))


def _books(m: Material, u: Floats, v: Floats) -> Floats:
    """Spines: each of about `scale` metres, with its own colour and a lighter band."""
    place = u / np.float32(m.scale)
    place = place + 0.35 * np.sin(place * 1.7)
    spine = np.floor(place)
    edge = np.minimum(place % 1, 1 - place % 1)
    colour = np.stack([0.28 + 0.27 * _at(_grain(), spine * 3 + k * 91, spine * 0 + 40 + k) for k in range(3)])
    grey = colour.mean(0)
    colour = np.clip(grey + (colour - grey) * 0.7, 0.02, 0.9)
    band = (np.abs(v + 0.04 * _at(_grain(), spine * 7, spine * 0 + 9)) < 0.012).astype(np.float32)
    result: Floats = (colour * (1 - 0.6 * band) + 0.35 * band) * np.clip(0.25 + edge * 9, 0, 1)
    return result


def _art(m: Material, u: Floats, v: Floats) -> Floats:
    """A picture: soft shapes in two colours and their blend."""
    warp = _smooth(u * np.float32(40 / m.scale * 0.3), v * np.float32(40 / m.scale * 0.3))
    first = np.clip(0.5 + 3 * np.sin(u * np.float32(3 / m.scale) + 4 * warp), 0, 1)
    third = np.clip(0.5 + 4 * np.cos(v * np.float32(4 / m.scale) + 3 * warp), 0, 1)
    result: Floats = _mix(m.colour, m.second, first) * (0.55 + 0.45 * third) + 0.1 * third
    return result


def _outside(m: Material, u: Floats, v: Floats) -> Floats:
    """The view from a window: sky over something green or built."""
    horizon = np.float32(-0.15) + 0.35 * _smooth(u * 40, u * 0)
    share = np.clip((v - horizon) * 8, 0, 1)
    foliage = 0.7 + 0.5 * _smooth(u * 260, v * 260)
    sky = _flat((0.75, 0.88, 1.0), 1 + 0.1 * _smooth(u * 30, v * 60))
    result: Floats = _flat(m.second, np.maximum(foliage, 0.1)) * (1 - share) + sky * share
    return result


def _drapes(m: Material, u: Floats, v: Floats) -> Floats:
    fold = np.sin(u * np.float32(2 * np.pi / m.scale) + 1.5 * _smooth(u * 20, v * 4))
    return _flat(m.colour, 0.8 + 0.28 * fold + 0.05 * _at(_grain(), u * 400, v * 400))


def _leaf(m: Material, u: Floats, v: Floats) -> Floats:
    vein = np.clip(1 - np.abs(v) * 120, 0, 1) * 0.35
    return _flat(m.colour, 0.9 + vein + 0.25 * _smooth(u * 150, v * 150))


_PATTERNS = {
    "plain": _plain,
    "wood": _wood,
    "fabric": _fabric,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "planks": _planks,
    "tiles": _tiles,
    "bricks": _bricks,
    "carpet": _carpet,
    "lampshade": _lampshade,
    "cardboard": _cardboard,
    "books": _books,
    "art": _art,
    "outside": _outside,
    "drapes": _drapes,
    "leaf": _leaf,
}
