"""Tables and beds."""

from __future__ import annotations

from numpy.random import Generator

from stream_worker.scenes import palette
from stream_worker.scenes.furniture.workbench import Piece, turned


def table(rng: Generator) -> Piece:
    """A dining, coffee or side table, a desk; on four legs, trestles or a pedestal."""
    pick = rng.random()
    if pick < 0.4:
        width, depth, height = rng.uniform(1.0, 1.9), rng.uniform(0.7, 0.95), rng.uniform(0.71, 0.77)
    elif pick < 0.72:
        width, depth, height = rng.uniform(0.7, 1.25), rng.uniform(0.5, 0.75), rng.uniform(0.35, 0.48)
    elif pick < 0.86:
        width, depth, height = rng.uniform(1.0, 1.6), rng.uniform(0.55, 0.75), rng.uniform(0.71, 0.77)
    else:
        width = rng.uniform(0.4, 0.6)
        depth, height = width, rng.uniform(0.45, 0.65)
    if rng.random() < 0.25:
        return _round_table(rng, min(width, 1.2), height)
    piece = Piece(faces=False, size=(width, depth, height), top=(width, depth, height))
    top, legs = palette.board(rng), palette.frame(rng)
    thick = rng.uniform(0.02, 0.05)
    piece.box((0, 0, height - thick / 2), (width, depth, thick), top, 0.008)
    radius = rng.uniform(0.018, 0.042)
    inset = rng.uniform(0.01, 0.08)
    under = height - thick
    style = palette.choose(rng, "square", "square", "taper", "panel", "sled", "trestle")
    x0, y0 = width / 2 - radius - inset, depth / 2 - radius - inset
    for x in (-1, 1):
        if style == "panel":
            piece.box((x * (width / 2 - 0.03), 0, under / 2), (0.035, depth * 0.92, under), top)
        elif style == "sled":
            piece.box((x * x0, 0, 0.02), (2 * radius, depth * 0.9, 0.04), legs)
        elif style == "trestle":
            piece.box((x * x0 * 0.8, 0, under / 2), (0.08, 0.12, under), legs)
            piece.box((x * x0 * 0.8, 0, 0.03), (0.09, depth * 0.8, 0.06), legs)
        for y in (-1, 1):
            if style in ("square", "sled"):
                piece.box((x * x0, y * y0, under / 2), (2 * radius, 2 * radius, under), legs)
            elif style == "taper":
                piece.rod((x * (x0 + 0.03), y * (y0 + 0.03), 0), (x * x0, y * y0, under), radius * 0.6, legs, radius)
    if style in ("square", "taper") and rng.random() < 0.6:
        skirt = rng.uniform(0.05, 0.1)
        piece.box((0, 0, under - skirt / 2), (2 * x0, 2 * y0, skirt), top if rng.random() < 0.5 else legs)
    if style == "trestle":
        piece.box((0, 0, under * 0.4), (x0 * 1.6, 0.04, 0.1), legs)
    if height < 0.55 and style == "square" and rng.random() < 0.5:
        piece.box((0, 0, 0.14), (2 * x0, 2 * y0, 0.02), top)
    if width > 0.9 and height > 0.7 and rng.random() < 0.25:
        _pedestal(piece, rng, width, depth, under)
    return piece


def _pedestal(piece: Piece, rng: Generator, width: float, depth: float, under: float) -> None:
    """A block of drawers under one end of a desk."""
    side = int(rng.choice([-1, 1]))
    board = palette.board(rng)
    x, wide = side * (width / 2 - 0.24), 0.38
    piece.box((x, 0, under / 2 + 0.05), (wide, depth * 0.85, under - 0.1), board)
    for k in range(3):
        z = 0.1 + (under - 0.1) * (k + 0.5) / 3
        piece.box((x, -depth * 0.425 - 0.008, z), (wide - 0.02, 0.018, (under - 0.1) / 3 - 0.015), board)
        piece.box((x, -depth * 0.425 - 0.026, z), (0.1, 0.018, 0.014), palette.metal(rng))


def _round_table(rng: Generator, width: float, height: float) -> Piece:
    piece = Piece(faces=False, size=(width, width, height), top=(width * 0.65, width * 0.65, height))
    legs = palette.frame(rng)
    thick = rng.uniform(0.02, 0.045)
    piece.rod((0, 0, height - thick), (0, 0, height), width / 2, palette.board(rng))
    if rng.random() < 0.5:
        piece.rod((0, 0, 0.02), (0, 0, height - thick), rng.uniform(0.03, 0.06), legs)
        piece.rod((0, 0, 0), (0, 0, 0.03), width * rng.uniform(0.24, 0.34), legs)
    else:
        spread = width * 0.4
        for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            foot = (x * spread * 0.75, y * spread * 0.75)
            piece.rod((*foot, 0), (foot[0] * 0.8, foot[1] * 0.8, height - thick), 0.016, legs, 0.026)
    return piece


def bed(rng: Generator) -> Piece:
    """A single or double bed with a headboard, pillows and a duvet."""
    piece = Piece()
    width = rng.uniform(0.9, 1.2) if rng.random() < 0.4 else rng.uniform(1.4, 1.85)
    depth = rng.uniform(1.98, 2.12)
    frame, sheet, duvet = palette.board(rng), palette.linen(rng), palette.linen(rng)
    low, rail = rng.uniform(0.05, 0.22), rng.uniform(0.24, 0.36)
    thick = rng.uniform(0.17, 0.26)
    lie = rail - 0.04 + thick
    if rng.random() < 0.3:
        frame = palette.upholstery(rng)
    piece.box((0, 0, (low + rail) / 2), (width + 0.08, depth + 0.06, rail - low), frame, 0.015)
    for x in (-1, 1):
        for y in (-1, 1):
            piece.box((x * (width / 2 - 0.03), y * (depth / 2 - 0.05), low / 2), (0.07, 0.07, low), frame)
    piece.soft((0, -0.01, lie - thick / 2), (width, depth - 0.02, thick), 0.06, sheet)
    head = rng.uniform(0.75, 1.25)
    _headboard(piece, rng, width, depth, head)
    count = 1 if width < 1.25 else 2
    for k in range(count):
        middle = (k - (count - 1) / 2) * width / 2
        wide = min(0.68, width / count - 0.06)
        for layer in range(int(rng.integers(1, 3))):
            tilt = turned(0, rng.uniform(0.15, 0.5) + 0.3 * layer) @ turned(2, rng.uniform(-0.12, 0.12))
            cover = palette.linen(rng) if rng.random() < 0.4 else sheet
            piece.soft(
                (middle, depth / 2 - 0.3 - 0.14 * layer, lie + 0.1 + 0.05 * layer),
                (wide, 0.42, 0.16),
                0.078,
                cover,
                tilt,
            )
    if rng.random() < 0.9:
        share = rng.uniform(0.5, 0.74)
        drop = rng.uniform(0.06, 0.22)
        length = depth * share
        middle_y = -depth / 2 + length / 2 - 0.03
        piece.soft((0, middle_y, lie - drop / 2 + 0.035), (width + 0.07, length, drop + 0.07), 0.055, duvet)
        if rng.random() < 0.5:
            piece.soft((0, middle_y + length / 2 - 0.14, lie + 0.045), (width + 0.075, 0.3, 0.07), 0.034, sheet)
        if rng.random() < 0.4:
            piece.soft(
                (0, -depth / 2 + 0.4, lie - drop / 2 + 0.04),
                (width + 0.09, 0.5, drop + 0.09),
                0.055,
                palette.cloth(rng, 0.4),
            )
    piece.size = (width + 0.1, depth + 0.12, head)
    return piece


def _headboard(piece: Piece, rng: Generator, width: float, depth: float, head: float) -> None:
    y = depth / 2 + 0.04
    style = palette.choose(rng, "panel", "padded", "bars", "low")
    if style == "panel":
        piece.box((0, y, head / 2), (width + 0.1, 0.05, head), palette.board(rng))
    elif style == "padded":
        cover = palette.upholstery(rng)
        for k in range(count := int(rng.integers(1, 5))):
            wide = (width + 0.1) / count
            piece.soft(
                (-(width + 0.1) / 2 + (k + 0.5) * wide, y - 0.02, head / 2 + 0.08),
                (wide, 0.11, head - 0.16),
                0.05,
                cover,
            )
    elif style == "bars":
        metal = palette.frame(rng)
        for k in range(count := int(rng.integers(6, 10))):
            x = -width / 2 + width * k / (count - 1)
            piece.rod((x, y, 0.0), (x, y, head), 0.014, metal)
        piece.rod((-width / 2, y, head), (width / 2, y, head), 0.02, metal)
