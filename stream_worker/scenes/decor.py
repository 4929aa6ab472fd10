"""What is in a room but is no furniture: windows, pictures, doors, rugs, small things on tables."""

from __future__ import annotations

from math import pi

from numpy.random import Generator

from stream_worker.scenes import palette
from stream_worker.scenes.furniture.workbench import Piece
from stream_worker.scenes.light import Lighting
from stream_worker.scenes.materials import Material, hsv
from stream_worker.scenes.solids import Solid

Size = tuple[float, float, float]


def knick_knack(rng: Generator, top: Size, place: Size, yaw: float) -> list[Solid]:
    """A few small things on a surface: vases, cups, bowls, books, a laptop."""
    piece = Piece()
    width, depth, height = top
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(-0.38, 0.38) * width, rng.uniform(-0.3, 0.3) * depth
        paint = palette.lacquer(rng)
        pick = palette.choose(rng, "vase", "cup", "books", "bowl", "laptop", "frame")
        if pick == "vase":
            wide = rng.uniform(0.03, 0.07)
            piece.rod(
                (x, y, height), (x, y, height + rng.uniform(0.12, 0.3)), wide, paint, wide * rng.uniform(0.4, 1.0)
            )
        elif pick == "cup":
            piece.rod((x, y, height), (x, y, height + 0.09), 0.035, paint, 0.04)
        elif pick == "bowl":
            piece.rod((x, y, height), (x, y, height + 0.07), 0.05, paint, 0.12)
            piece.ball(
                (x, y, height + 0.08),
                (0.12, 0.12, 0.08),
                Material("plain", hsv(rng.uniform(0, 0.3), 0.7, 0.7), amount=0.1),
            )
        elif pick == "books":
            for k in range(int(rng.integers(1, 4))):
                piece.box((x, y, height + 0.015 + 0.03 * k), (0.2 - 0.015 * k, 0.15, 0.028), palette.lacquer(rng))
        elif pick == "laptop" and width > 0.7:
            grey = Material("plain", hsv(0.6, 0.03, rng.uniform(0.3, 0.75)), gloss=0.3)
            piece.box((x, y, height + 0.008), (0.32, 0.22, 0.015), grey)
            piece.box(
                (x, y + 0.12, height + 0.12), (0.32, 0.012, 0.22), Material("plain", hsv(0.6, 0.2, 0.08), gloss=0.4)
            )
        elif pick == "frame":
            piece.box((x, y, height + 0.1), (0.14, 0.015, 0.19), palette.art(rng))
    return piece.placed(place, yaw, 0)


def decorate(rng: Generator, room: Size, lighting: Lighting) -> list[Solid]:
    """Things on the walls and on the floor. Where the light comes through a window, there is that window."""
    wide, deep, high = room
    walls = [
        ((0.0, deep, 0.0), 0.0, wide),
        ((-wide / 2, deep / 2, 0.0), pi / 2, deep),
        ((wide / 2, deep / 2, 0.0), -pi / 2, deep),
    ]
    solids: list[Solid] = []
    if rng.random() < 0.85:
        skirting = palette.lacquer(rng) if rng.random() < 0.5 else Material("plain", (0.75, 0.75, 0.73), amount=0.02)
        tall = rng.uniform(0.05, 0.12)
        for place, yaw, length in walls:
            piece = Piece()
            piece.box((0, -0.008, tall / 2), (length, 0.016, tall), skirting)
            solids += piece.placed(place, yaw, 0)
    for index, (place, yaw, length) in enumerate(walls):
        piece = Piece()
        if lighting.window_wall == index:
            _window(piece, rng, lighting)
        else:
            pick = rng.random()
            if pick < 0.55:
                _pictures(piece, rng, length, high)
            elif pick < 0.68:
                _door(piece, rng, length)
            elif pick < 0.75:
                _radiator(piece, rng, length)
        solids += piece.placed(place, yaw, 0)
    if rng.random() < 0.45:
        piece = Piece()
        size = (rng.uniform(1.2, 2.6), rng.uniform(0.9, 1.9))
        if rng.random() < 0.25:
            piece.rod((0, 0, 0), (0, 0, 0.012), size[1] / 2, palette.rug(rng))
        else:
            piece.box((0, 0, 0.006), (*size, 0.012), palette.rug(rng), 0.003)
        at = (rng.uniform(-0.2, 0.2) * wide, deep * rng.uniform(0.4, 0.65), 0.0)
        solids += piece.placed(at, rng.normal(0, 0.15), 0)
    return solids


def _window(piece: Piece, rng: Generator, lighting: Lighting) -> None:
    x0, x1, z0, z1 = lighting.window
    x, z, width, height = (x0 + x1) / 2, (z0 + z1) / 2, x1 - x0, z1 - z0
    view = Material(
        "outside",
        (1, 1, 1),
        hsv(rng.uniform(0.08, 0.4), rng.uniform(0.1, 0.5), rng.uniform(0.35, 0.7)),
        glow=rng.uniform(0.6, 1.6),
        phase=(rng.uniform(0, 5), rng.uniform(-0.3, 0.25)),
    )
    white = Material("plain", (0.8, 0.8, 0.78), amount=0.02, gloss=0.2)
    piece.box((x, -0.004, z), (width, 0.008, height), view, 0.001)
    for side in (-1, 1):
        piece.box((x + side * width / 2, -0.02, z), (0.07, 0.05, height + 0.07), white)
        piece.box((x, -0.02, z + side * height / 2), (width, 0.05, 0.07), white)
    for k in range(1, int(rng.integers(1, 4))):
        piece.box((x0 + width * k / 3, -0.018, z), (0.045, 0.035, height), white)
    piece.box((x, -0.07, z0 - 0.05), (width + 0.2, 0.16, 0.03), white)
    if rng.random() < 0.55:
        drapes = Material(
            "drapes", palette.cloth_colour(rng), scale=rng.uniform(0.07, 0.16), phase=(rng.uniform(0, 5), 0)
        )
        bottom = 0.02 if rng.random() < 0.6 else z0 - 0.1
        wide = rng.uniform(0.25, 0.5)
        for side in (-1, 1):
            piece.soft(
                (x + side * (width / 2 + wide * 0.3), -0.1, (bottom + z1 + 0.12) / 2),
                (wide, 0.08, z1 + 0.12 - bottom),
                0.03,
                drapes,
            )
        piece.rod(
            (x - width / 2 - 0.4, -0.1, z1 + 0.13), (x + width / 2 + 0.4, -0.1, z1 + 0.13), 0.014, palette.metal(rng)
        )


def _pictures(piece: Piece, rng: Generator, length: float, high: float) -> None:
    count = int(rng.integers(1, 4))
    wide = rng.uniform(0.3, 0.75)
    tall = wide * rng.uniform(0.7, 1.4)
    x = rng.uniform(-0.3, 0.3) * length - (count - 1) / 2 * (wide + 0.15)
    border = palette.frame(rng)
    for k in range(count):
        z = min(rng.uniform(1.45, 1.7), high - tall / 2 - 0.1)
        at = x + k * (wide + 0.15)
        piece.box((at, -0.012, z), (wide, 0.024, tall), border)
        mount = Material("plain", (0.82, 0.81, 0.78), amount=0.01)
        piece.box((at, -0.02, z), (wide - 0.04, 0.012, tall - 0.04), mount, 0.001)
        inset = rng.uniform(0.04, 0.16)
        piece.box((at, -0.021, z), (wide - inset, 0.013, tall - inset), palette.art(rng), 0.001)


def _door(piece: Piece, rng: Generator, length: float) -> None:
    paint = palette.board(rng)
    x = rng.uniform(-0.35, 0.35) * length
    trim = Material("plain", (0.75, 0.75, 0.73), amount=0.02)
    piece.box((x, -0.012, 1.03), (1.02, 0.024, 2.06), trim)
    piece.box((x, -0.02, 1.0), (0.84, 0.03, 2.0), paint)
    for z in (0.5, 1.45):
        piece.box((x, -0.033, z), (0.56, 0.012, 0.7), paint, 0.01)
    piece.rod((x + 0.34, -0.08, 1.02), (x + 0.23, -0.08, 1.02), 0.011, palette.metal(rng))


def _radiator(piece: Piece, rng: Generator, length: float) -> None:
    white = Material("plain", (0.78, 0.78, 0.76), gloss=0.25)
    wide = rng.uniform(0.6, 1.2)
    x = rng.uniform(-0.3, 0.3) * length
    for k in range(count := round(wide / 0.07)):
        piece.soft((x - wide / 2 + (k + 0.5) * wide / count, -0.08, 0.42), (0.055, 0.1, 0.55), 0.025, white)
