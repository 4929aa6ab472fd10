"""Sofas and chairs."""

from __future__ import annotations

from math import cos, pi, sin

from numpy.random import Generator

from stream_worker.scenes import palette
from stream_worker.scenes.furniture.workbench import Piece, turned


def sofa(rng: Generator) -> Piece:
    """Two to four seats; block, round or slim arms; now and then a chaise longue and loose cushions."""
    piece = Piece()
    seats = int(rng.choice([2, 3, 4], p=[0.45, 0.45, 0.1]))
    cover = palette.upholstery(rng)
    seat_width = rng.uniform(0.58, 0.75)
    arm = rng.uniform(0.08, 0.26)
    width, depth = seats * seat_width + 2 * arm, rng.uniform(0.8, 1.0)
    seat_height, back_height, arm_height = rng.uniform(0.38, 0.47), rng.uniform(0.7, 0.95), rng.uniform(0.52, 0.68)
    legs = rng.uniform(0.03, 0.16)
    thick = rng.uniform(0.12, 0.2)
    back = rng.uniform(0.14, 0.22)
    inner = seats * seat_width
    base_top = seat_height - thick * 0.8
    piece.soft((0, 0, (legs + base_top) / 2), (width - 0.04, depth - 0.04, base_top - legs), 0.03, cover)
    lean = turned(0, -rng.uniform(0, 0.14))
    piece.soft(
        (0, depth / 2 - back / 2, (legs + back_height) / 2), (width - 0.02, back, back_height - legs), 0.06, cover, lean
    )
    style = palette.choose(rng, "block", "round", "slim")
    for side in (-1, 1):
        x = side * (width / 2 - arm / 2)
        piece.soft(
            (x, 0, (legs + arm_height) / 2), (arm, depth, arm_height - legs), 0.02 if style == "block" else 0.06, cover
        )
        if style == "round":
            piece.rod((x, -depth / 2, arm_height), (x, depth / 2 - 0.08, arm_height), arm * 0.62, cover)
    deep = depth - back
    chaise = int(rng.choice([-1, 1])) if rng.random() < 0.2 else 0
    for k in range(seats):
        x = -inner / 2 + (k + 0.5) * seat_width
        piece.soft((x, -back / 2 - 0.02, seat_height - thick / 2), (seat_width - 0.012, deep, thick), 0.05, cover)
        tall = back_height - seat_height + rng.uniform(-0.08, 0.06)
        piece.soft(
            (x, depth / 2 - back - 0.07, seat_height + tall / 2 - 0.02),
            (seat_width - 0.02, 0.17, tall),
            0.07,
            cover,
            lean,
        )
    reach = 0.0
    if chaise:
        reach = rng.uniform(0.5, 0.75)
        x = chaise * (inner / 2 - seat_width / 2)
        piece.soft(
            (x, -depth / 2 - reach / 2 + 0.05, (legs + base_top) / 2), (seat_width, reach, base_top - legs), 0.03, cover
        )
        piece.soft(
            (x, -depth / 2 - reach / 2 + 0.05, seat_height - thick / 2), (seat_width, reach + 0.1, thick), 0.05, cover
        )
    for _ in range(int(rng.integers(0, 4))):
        x = rng.uniform(-inner / 2 + 0.2, inner / 2 - 0.2)
        tilt = turned(0, -rng.uniform(0.2, 0.5)) @ turned(1, rng.uniform(-0.5, 0.5))
        size = rng.uniform(0.36, 0.48)
        piece.soft(
            (x, depth / 2 - back - 0.24, seat_height + size * 0.45),
            (size, 0.14, size),
            0.065,
            palette.cloth(rng, 0.5),
            tilt,
        )
    feet = palette.frame(rng)
    for x in (-1, 1):
        for y in (-1, 1):
            foot = (x * (width / 2 - 0.09), y * (depth / 2 - 0.09))
            piece.rod((*foot, 0), (*foot, legs + 0.02), 0.015, feet, 0.025)
    piece.size = (width, depth, back_height)
    if chaise:
        piece.size = (width, depth + 2 * reach, back_height)
    return piece


def chair(rng: Generator) -> Piece:
    """A dining chair, a stool, an office chair or an armchair."""
    pick = rng.random()
    if pick < 0.5:
        return _dining_chair(rng)
    if pick < 0.62:
        return _stool(rng)
    if pick < 0.8:
        return _office_chair(rng)
    return _armchair(rng)


def _legs(piece: Piece, rng: Generator, width: float, depth: float, height: float, radius: float) -> None:
    material = palette.frame(rng)
    splay = rng.uniform(0, 0.07)
    square = rng.random() < 0.4
    for x in (-1, 1):
        for y in (-1, 1):
            px, py = x * (width / 2 - radius), y * (depth / 2 - radius)
            if square:
                piece.box((px, py, height / 2), (2 * radius, 2 * radius, height), material)
            else:
                piece.rod((px + x * splay, py + y * splay, 0), (px, py, height), radius * 0.7, material, radius)


def _dining_chair(rng: Generator) -> Piece:
    piece = Piece()
    width, depth = rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.5)
    seat, tall = rng.uniform(0.43, 0.48), rng.uniform(0.78, 1.02)
    thick = rng.uniform(0.03, 0.07)
    radius = rng.uniform(0.016, 0.03)
    _legs(piece, rng, width, depth, seat - thick / 2, radius)
    material = palette.frame(rng)
    padded = rng.random() < 0.5
    cover = palette.upholstery(rng) if padded else material
    if padded:
        piece.soft((0, 0, seat - thick / 2 + 0.01), (width, depth, thick + 0.02), 0.03, cover)
    else:
        piece.box((0, 0, seat - thick / 2), (width, depth, thick), cover, 0.012)
    lean = turned(0, -rng.uniform(0.05, 0.2))
    back = tall - seat
    y = depth / 2 - 0.02 + back * 0.06
    middle = seat + back / 2
    style = palette.choose(rng, "panel", "slats", "bars", "padded")
    if style == "padded":
        piece.soft((0, y, middle), (width, 0.06, back), 0.03, cover, lean)
        return _sized(piece, width, depth, tall)
    if style == "panel":
        piece.box((0, y, middle + back * 0.15), (width, 0.025, back * 0.65), material, 0.01, lean)
    for x in (-1, 1):
        piece.box((x * (width / 2 - radius), y, middle), (2 * radius, 2 * radius, back), material, axes=lean)
    piece.box((0, y + back * 0.05, tall - 0.05), (width, 0.028, 0.09), material, axes=lean)
    if style == "slats":
        for k in range(int(rng.integers(3, 6))):
            count = 5
            piece.box(((k - 2) * width / count, y, middle), (0.03, 0.018, back), material, axes=lean)
    elif style == "bars":
        for k in range(1, int(rng.integers(2, 4)) + 1):
            piece.box((0, y, seat + back * k / 4), (width, 0.02, 0.05), material, axes=lean)
    return _sized(piece, width, depth, tall)


def _sized(piece: Piece, width: float, depth: float, height: float) -> Piece:
    piece.size = (width, depth, height)
    return piece


def _stool(rng: Generator) -> Piece:
    piece = Piece(faces=False)
    width = rng.uniform(0.32, 0.42)
    seat = rng.uniform(0.42, 0.75)
    _legs(piece, rng, width * 0.85, width * 0.85, seat - 0.03, rng.uniform(0.014, 0.024))
    if rng.random() < 0.6:
        piece.rod((0, 0, seat - 0.05), (0, 0, seat), width / 2, palette.board(rng))
    else:
        piece.soft((0, 0, seat - 0.03), (width, width, 0.08), 0.03, palette.upholstery(rng))
    return _sized(piece, width + 0.08, width + 0.08, seat)


def _office_chair(rng: Generator) -> Piece:
    piece = Piece()
    base, cover = palette.metal(rng), palette.upholstery(rng)
    seat, tall = rng.uniform(0.45, 0.54), rng.uniform(0.88, 1.2)
    width = rng.uniform(0.46, 0.54)
    turn = rng.uniform(0, 1)
    for k in range(5):
        angle = turn + k * 2 * pi / 5
        tip = (0.3 * cos(angle), 0.3 * sin(angle))
        piece.rod((0, 0, 0.1), (*tip, 0.07), 0.022, base, 0.016)
        piece.ball((*tip, 0.03), (0.05, 0.05, 0.06), base)
    piece.rod((0, 0, 0.08), (0, 0, seat - 0.05), 0.028, base)
    piece.soft((0, 0, seat - 0.04), (width, width, 0.1), 0.045, cover)
    lean = turned(0, -rng.uniform(0.08, 0.22))
    back = tall - seat - 0.08
    piece.soft(
        (0, width / 2 + 0.03, seat + 0.08 + back / 2), (width * rng.uniform(0.8, 1), 0.08, back), 0.04, cover, lean
    )
    piece.box((0, width / 2 - 0.02, seat + 0.05), (0.07, 0.03, 0.25), base, axes=lean)
    if rng.random() < 0.7:
        for x in (-1, 1):
            piece.rod((x * width * 0.52, 0.05, seat - 0.05), (x * width * 0.52, 0.05, seat + 0.19), 0.015, base)
            piece.soft((x * width * 0.52, 0, seat + 0.2), (0.07, 0.26, 0.035), 0.015, base)
    return _sized(piece, 0.62, 0.62, tall)


def _armchair(rng: Generator) -> Piece:
    piece = Piece()
    cover = palette.upholstery(rng)
    width, depth, tall = rng.uniform(0.68, 0.82), rng.uniform(0.7, 0.85), rng.uniform(0.75, 1.05)
    seat, arm, legs = rng.uniform(0.38, 0.46), rng.uniform(0.05, 0.14), rng.uniform(0.12, 0.22)
    _legs(piece, rng, width - 0.1, depth - 0.1, legs + 0.02, 0.02)
    piece.soft((0, -0.03, (legs + seat) / 2 - 0.03), (width - 0.04, depth - 0.1, seat - legs), 0.04, cover)
    piece.soft((0, -0.05, seat - 0.04), (width - 2 * arm, depth - 0.16, 0.15), 0.06, cover)
    lean = turned(0, -rng.uniform(0.08, 0.25))
    piece.soft((0, depth / 2 - 0.09, (legs + tall) / 2 + 0.03), (width - arm, 0.17, tall - legs), 0.08, cover, lean)
    high = rng.uniform(0.55, 0.66)
    for x in (-1, 1):
        if rng.random() < 0.8:
            piece.soft(
                (x * (width / 2 - arm / 2), -0.03, (legs + high) / 2), (arm, depth - 0.12, high - legs), 0.04, cover
            )
    if rng.random() < 0.3:
        piece.soft((0, depth / 2 - 0.27, seat + 0.2), (0.4, 0.13, 0.38), 0.06, palette.cloth(rng, 0.5), lean)
    return _sized(piece, width, depth, tall)
