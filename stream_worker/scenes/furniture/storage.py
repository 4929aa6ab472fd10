"""Shelves, cabinets and boxes."""

from __future__ import annotations

from numpy.random import Generator

from stream_worker.scenes import palette
from stream_worker.scenes.furniture.workbench import Piece, turned
from stream_worker.scenes.materials import Material, hsv


def shelf(rng: Generator) -> Piece:
    """An open bookcase, high or low, with or without a back, with books and things in it."""
    low = rng.random() < 0.3
    width = rng.uniform(0.6, 1.5) if low else rng.uniform(0.5, 1.3)
    depth, height = rng.uniform(0.25, 0.4), rng.uniform(0.75, 1.1) if low else rng.uniform(1.3, 2.15)
    piece = Piece(size=(width, depth, height), top=(width, depth, height) if low else None)
    board = palette.board(rng)
    thick = rng.uniform(0.018, 0.035)
    open_frame = rng.random() < 0.25
    posts = palette.metal(rng) if open_frame else board
    for x in (-1, 1):
        if open_frame:
            for y in (-1, 1):
                piece.box((x * (width / 2 - 0.012), y * (depth / 2 - 0.012), height / 2), (0.024, 0.024, height), posts)
        else:
            piece.box((x * (width / 2 - thick / 2), 0, height / 2), (thick, depth, height), board)
    if not open_frame and rng.random() < 0.85:
        back = board if rng.random() < 0.6 else palette.lacquer(rng)
        piece.box((0, depth / 2 - 0.005, height / 2), (width - thick, 0.008, height - 0.02), back)
    rows = max(2, round(height / rng.uniform(0.3, 0.42)))
    foot = rng.uniform(0.03, 0.09)
    step = (height - foot - thick / 2) / rows
    for k in range(rows + 1):
        piece.box((0, -0.001, foot + k * step), (width - 0.01, depth, thick), board)
    if not open_frame and width > 0.9 and rng.random() < 0.6:
        piece.box((0, 0, height / 2), (thick, depth - 0.01, height - 2 * thick), board)
    filled = rng.uniform(0.3, 1.0)
    for k in range(rows):
        _fill(piece, rng, width - 2 * thick - 0.03, depth, foot + k * step + thick / 2, step - thick, filled)
    return piece


def _fill(piece: Piece, rng: Generator, width: float, depth: float, bottom: float, room: float, filled: float) -> None:
    x = -width / 2 + rng.uniform(0, 0.05)
    while x < width / 2 - 0.08:
        wide = min(rng.uniform(0.1, 0.4), width / 2 - x)
        if rng.random() < filled:
            high = room * rng.uniform(0.55, 0.9)
            pick = rng.random()
            middle = x + wide / 2
            if pick < 0.65:
                books = Material("books", (0.5, 0.5, 0.5), scale=rng.uniform(0.02, 0.045), phase=(rng.uniform(0, 9), 0))
                piece.box((middle, -0.02, bottom + high / 2), (wide - 0.01, depth * 0.7, high), books, 0.003)
            elif pick < 0.8:
                crate = palette.cloth(rng) if rng.random() < 0.5 else palette.lacquer(rng)
                piece.box((middle, -0.01, bottom + high * 0.45), (wide - 0.02, depth * 0.8, high * 0.9), crate, 0.015)
            elif pick < 0.9:
                round_ = min(wide, high) * 0.35
                piece.rod(
                    (middle, -0.03, bottom),
                    (middle, -0.03, bottom + high * 0.7),
                    round_,
                    palette.lacquer(rng),
                    round_ * 0.6,
                )
            else:
                size = min(wide, high) * 0.7
                piece.ball((middle, -0.03, bottom + size / 2), (size, size, size), palette.lacquer(rng))
        x += wide + rng.uniform(0.005, 0.03)


def cabinet(rng: Generator) -> Piece:
    """A sideboard, a chest of drawers, a wardrobe or a bedside cabinet: closed fronts, grips, feet."""
    pick = rng.random()
    if pick < 0.35:
        width, depth, height, columns, rows = (
            rng.uniform(1.1, 1.9),
            rng.uniform(0.38, 0.5),
            rng.uniform(0.55, 0.9),
            int(rng.integers(2, 5)),
            1,
        )
    elif pick < 0.65:
        width, depth, height, columns, rows = (
            rng.uniform(0.6, 1.2),
            rng.uniform(0.4, 0.5),
            rng.uniform(0.7, 1.15),
            int(rng.integers(1, 3)),
            int(rng.integers(3, 6)),
        )
    elif pick < 0.85:
        width, depth, height, columns, rows = (
            rng.uniform(0.8, 1.8),
            rng.uniform(0.5, 0.62),
            rng.uniform(1.75, 2.2),
            int(rng.integers(2, 4)),
            1,
        )
    else:
        width, depth, height, columns, rows = (
            rng.uniform(0.38, 0.55),
            rng.uniform(0.35, 0.42),
            rng.uniform(0.42, 0.62),
            1,
            int(rng.integers(1, 4)),
        )
    piece = Piece(size=(width, depth, height), top=(width, depth, height) if height < 1.3 else None)
    body = palette.board(rng)
    fronts = body if rng.random() < 0.65 else palette.board(rng)
    grip = palette.metal(rng)
    legs = rng.uniform(0.08, 0.2) if rng.random() < 0.5 and height < 1.2 else rng.uniform(0.0, 0.06)
    piece.box((0, 0, (legs + height) / 2), (width, depth, height - legs), body)
    piece.box((0, -0.012, height - 0.012), (width + 0.012, depth + 0.03, 0.024), body)
    if legs > 0.07:
        for x in (-1, 1):
            for y in (-1, 1):
                piece.rod(
                    (x * (width / 2 - 0.05), y * (depth / 2 - 0.06), 0),
                    (x * (width / 2 - 0.08), y * (depth / 2 - 0.07), legs),
                    0.013,
                    palette.frame(rng),
                    0.022,
                )
    elif legs > 0:
        piece.box((0, 0.02, legs / 2), (width - 0.03, depth - 0.05, legs), body)
    gap = rng.uniform(0.004, 0.012)
    wide = (width - 0.03) / columns
    knob = palette.choose(rng, "knob", "bar", "long", "none")
    split = rows == 1 and rng.random() < 0.4
    for i in range(columns):
        drawers = rows if not (split and i % 2) else 3
        tall = (height - legs - 0.05) / drawers
        for j in range(drawers):
            middle, z = -(width - 0.03) / 2 + (i + 0.5) * wide, legs + 0.012 + (j + 0.5) * tall
            _front(
                piece,
                rng,
                (middle, -depth / 2 - 0.008, z),
                (wide - 2 * gap, tall - 2 * gap),
                fronts,
                grip,
                knob,
                i,
                drawers == 1,
            )
    return piece


def _front(
    piece: Piece,
    rng: Generator,
    at: tuple[float, float, float],
    size: tuple[float, float],
    front: Material,
    grip: Material,
    knob: str,
    column: int,
    door: bool,
) -> None:
    x, y, z = at
    wide, tall = size
    piece.box(at, (wide, 0.018, tall), front, 0.004)
    if knob == "none":
        return
    if door:
        gx = x + (wide / 2 - 0.05) * (1 if column % 2 == 0 else -1)
        if knob == "knob":
            piece.ball((gx, y - 0.022, z), (0.03, 0.03, 0.03), grip)
        else:
            piece.box((gx, y - 0.024, z), (0.014, 0.018, min(tall * 0.5, 0.16 if knob == "bar" else 0.4)), grip)
    elif knob == "knob":
        piece.ball((x, y - 0.022, z), (0.032, 0.032, 0.032), grip)
    else:
        piece.box((x, y - 0.024, z + tall * 0.2), (min(wide * 0.6, 0.14 if knob == "bar" else 0.5), 0.018, 0.014), grip)


def box(rng: Generator) -> Piece:
    """A moving box: taped, or with open flaps, sometimes with a label."""
    width, depth, height = rng.uniform(0.3, 0.65), rng.uniform(0.28, 0.5), rng.uniform(0.25, 0.5)
    card = palette.cardboard(rng)
    opened = rng.random() < 0.25
    piece = Piece(faces=False, size=(width, depth, height), top=None if opened else (width, depth, height))
    piece.box((0, 0, height / 2), (width, depth, height), card, 0.004)
    if opened:
        dark = Material("plain", hsv(0.08, 0.5, 0.25))
        piece.box((0, 0, height + 0.001), (width - 0.02, depth - 0.02, 0.004), dark, 0.001)
        flap = depth * 0.42
        for side in (-1, 1):
            angle = rng.uniform(0.2, 1.3)
            axes = turned(0, side * angle)
            centre = axes[:, 1] * side * flap / 2
            piece.box(
                (0, side * depth / 2 + float(centre[1]), height + float(centre[2])),
                (width, flap, 0.006),
                card,
                0.001,
                axes,
            )
            flat = width * 0.3
            axes = turned(1, -side * rng.uniform(0.2, 1.2))
            centre = axes[:, 0] * side * flat / 2
            piece.box(
                (side * width / 2 + float(centre[0]), 0, height + float(centre[2])),
                (flat, depth, 0.006),
                card,
                0.001,
                axes,
            )
        return piece
    tape = Material("plain", hsv(0.1, rng.uniform(0.05, 0.4), rng.uniform(0.6, 0.95)), gloss=0.3, shine=40)
    strip = rng.uniform(0.04, 0.06)
    piece.box((0, 0, height), (width + 0.002, strip, 0.003), tape, 0.0005)
    for x in (-1, 1):
        piece.box((x * width / 2, 0, height - 0.04), (0.003, strip, 0.08), tape, 0.0005)
    if rng.random() < 0.5:
        paper = Material("plain", hsv(0.1, 0.03, 0.93), amount=0.02)
        piece.box(
            (rng.uniform(-0.1, 0.1) * width, -depth / 2, height * rng.uniform(0.45, 0.6)),
            (width * 0.3, 0.003, height * 0.25),
            paper,
            0.0005,
        )
        ink = Material("plain", hsv(0.6, 0.3, 0.2))
        piece.box((0, -depth / 2 - 0.001, height * 0.8), (width * 0.3, 0.003, 0.02), ink, 0.0005)
    if rng.random() < 0.5:
        dark = Material("plain", hsv(0.08, 0.5, 0.2))
        for x in (-1, 1):
            piece.box((x * width / 2, 0, height * 0.72), (0.003, 0.09, 0.028), dark, 0.0005)
    return piece
