"""Lamps, plants and televisions."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
from numpy.random import Generator

from stream_worker.scenes import palette
from stream_worker.scenes.furniture.workbench import Piece, towards, turned
from stream_worker.scenes.materials import Material, hsv


def lamp(rng: Generator) -> Piece:
    """A floor lamp: on a pole, a tripod or an arc."""
    height = rng.uniform(1.25, 1.8)
    piece = Piece(faces=False)
    metal = palette.frame(rng)
    style = palette.choose(rng, "pole", "pole", "tripod", "arc")
    x = 0.0
    thin = rng.uniform(0.011, 0.024)
    if style == "tripod":
        for k in range(3):
            angle = k * 2 * pi / 3 + 0.4
            piece.rod((0.26 * cos(angle), 0.26 * sin(angle), 0), (0, 0, height - 0.22), thin * 0.8, metal, thin)
    else:
        piece.rod((0, 0, 0), (0, 0, 0.03), rng.uniform(0.12, 0.18), metal)
        if style == "arc":
            x = rng.uniform(0.25, 0.45)
            piece.rod((0, 0, 0.02), (0, 0, height - 0.15), thin, metal)
            piece.rod((0, 0, height - 0.16), (x * 0.5, 0, height - 0.02), thin, metal)
            piece.rod((x * 0.5, 0, height - 0.02), (x, 0, height - 0.08), thin, metal)
        else:
            piece.rod((0, 0, 0.02), (0, 0, height - 0.1), thin, metal)
    wide = _shade(piece, rng, (x, 0, height - 0.15 if style == "arc" else height), rng.uniform(0.13, 0.24))
    reach = max(0.2, x + wide)
    piece.size = (2 * reach, 2 * max(wide, 0.18), height)
    return piece


def table_lamp(rng: Generator) -> Piece:
    """A lamp to stand on a table or a cabinet."""
    piece = Piece(faces=False)
    height = rng.uniform(0.36, 0.6)
    body = palette.lacquer(rng) if rng.random() < 0.6 else palette.frame(rng)
    style = palette.choose(rng, "ball", "vase", "pole")
    if style == "ball":
        size = rng.uniform(0.13, 0.2)
        piece.ball((0, 0, size / 2), (size, size, size), body)
    elif style == "vase":
        piece.rod((0, 0, 0), (0, 0, height * 0.5), rng.uniform(0.06, 0.09), body, rng.uniform(0.025, 0.05))
    else:
        piece.rod((0, 0, 0), (0, 0, 0.025), 0.08, body)
    piece.rod((0, 0, 0.02), (0, 0, height - 0.1), 0.012, body)
    wide = _shade(piece, rng, (0, 0, height), rng.uniform(0.1, 0.17))
    piece.size = (2 * wide, 2 * wide, height)
    return piece


def _shade(piece: Piece, rng: Generator, at: tuple[float, float, float], radius: float) -> float:
    lit = rng.random() < 0.6
    warm = hsv(rng.uniform(0.08, 0.14), rng.uniform(0.05, 0.35), rng.uniform(0.8, 0.97))
    if rng.random() < 0.25:
        warm = palette.cloth_colour(rng)
    shade = Material("lampshade", warm, scale=radius * 0.8, glow=rng.uniform(0.5, 1.6) if lit else 0.0)
    x, y, top = at
    style = palette.choose(rng, "cone", "cone", "drum", "globe", "dome")
    if style == "globe":
        piece.ball((x, y, top - radius * 0.8), (1.6 * radius, 1.6 * radius, 1.6 * radius), shade)
        return radius * 0.8
    if style == "dome":
        metal = palette.metal(rng)
        piece.rod((x, y, top - radius * 0.8), (x, y, top), radius, metal, radius * 0.25)
        piece.rod((x, y, top - radius * 0.82), (x, y, top - radius * 0.79), radius * 0.9, shade)
        return radius
    upper = radius * (rng.uniform(0.45, 0.75) if style == "cone" else 0.97)
    piece.rod((x, y, top - radius * rng.uniform(1.0, 1.5)), (x, y, top), radius, shade, upper)
    return radius


def plant(rng: Generator) -> Piece:
    """A pot plant: bushy, upright blades, or a small tree."""
    height = rng.uniform(0.5, 1.6)
    piece = Piece(faces=False)
    wide = _plant(piece, rng, height)
    piece.size = (2 * wide, 2 * wide, height)
    return piece


def small_plant(rng: Generator) -> Piece:
    """A pot plant for a table or a cabinet."""
    height = rng.uniform(0.25, 0.45)
    piece = Piece(faces=False)
    wide = _plant(piece, rng, height)
    piece.size = (2 * wide, 2 * wide, height)
    return piece


def _plant(piece: Piece, rng: Generator, height: float) -> float:
    pot_high = min(height * rng.uniform(0.2, 0.36), 0.42)
    pot = pot_high * rng.uniform(0.38, 0.6)
    potter = (
        palette.lacquer(rng)
        if rng.random() < 0.6
        else Material("plain", hsv(0.04, rng.uniform(0.4, 0.65), rng.uniform(0.45, 0.75)), amount=0.1)
    )
    piece.rod((0, 0, 0), (0, 0, pot_high), pot * rng.uniform(0.65, 1.0), potter, pot)
    piece.rod(
        (0, 0, pot_high - 0.01),
        (0, 0, pot_high + 0.004),
        pot * 0.9,
        Material("plain", hsv(0.07, 0.5, 0.18), amount=0.3),
    )
    leaf = palette.green(rng)
    crown = height - pot_high
    style = palette.choose(rng, "bush", "blades", "tree")
    if style == "blades":
        for _ in range(int(rng.integers(8, 16))):
            angle, lean = rng.uniform(0, 2 * pi), rng.uniform(0.03, 0.4)
            long = crown * rng.uniform(0.6, 1.0) / cos(lean)
            way = np.array([sin(lean) * cos(angle), sin(lean) * sin(angle), cos(lean)], np.float32)
            middle = way * long / 2
            axes = towards(way) @ turned(2, rng.uniform(0, pi))
            piece.ball(
                (float(middle[0]), float(middle[1]), pot_high + float(middle[2]) - 0.02),
                (crown * 0.11, 0.015, long),
                leaf,
                axes,
            )
        return max(pot, crown * 0.35)
    stem = Material("plain", hsv(0.08, 0.5, 0.3), amount=0.2)
    low = pot_high + (crown * rng.uniform(0.35, 0.5) if style == "tree" else crown * 0.08)
    piece.rod(
        (0, 0, pot_high - 0.02),
        (0, 0, low + (height - low) * 0.5),
        0.008 + 0.008 * height,
        stem,
        0.005 + 0.004 * height,
    )
    centre = (low + height) / 2
    spread = (height - low) / 2 * rng.uniform(0.75, 1.1)
    size = spread * rng.uniform(0.5, 0.75)
    for _ in range(int(rng.integers(26, 44))):
        way = rng.standard_normal(3).astype(np.float32)
        way /= np.linalg.norm(way)
        where = way * np.float32(spread * rng.uniform(0.45, 0.85))
        axes = towards(way + np.array([0, 0, -0.4], np.float32) + 0.6 * rng.standard_normal(3).astype(np.float32))
        up = (height - low) / 2 / spread
        at = (float(where[0]), float(where[1]), centre + float(where[2]) * up * 0.9)
        piece.ball(at, (size * rng.uniform(0.3, 0.5), 0.012 + size * 0.1, size * rng.uniform(0.7, 1.1)), leaf, axes)
    return max(pot, spread)


def tv(rng: Generator) -> Piece:
    """A flat television on its foot, or flat for the wall; off, or showing something."""
    width = rng.uniform(0.75, 1.45)
    height = width * 0.57
    piece = Piece(size=(width, 0.22, height + 0.07))
    case = Material("plain", hsv(0.6, 0.05, rng.uniform(0.05, 0.14)), gloss=0.3, shine=40)
    lift = 0.06
    piece.box((0, 0, lift + height / 2), (width, 0.045, height), case, 0.004)
    if rng.random() < 0.65:
        screen = Material("plain", hsv(0.62, rng.uniform(0, 0.3), rng.uniform(0.03, 0.1)), gloss=0.7, shine=60)
    else:
        picture = palette.art(rng)
        screen = Material(
            "art", picture.colour, picture.second, scale=picture.scale, glow=rng.uniform(0.4, 0.9), phase=picture.phase
        )
    piece.box((0, -0.022, lift + height / 2), (width - 0.03, 0.006, height - 0.03), screen, 0.0005)
    if rng.random() < 0.5:
        piece.box((0, 0, 0.008), (width * 0.35, 0.2, 0.016), case)
        piece.box((0, 0.01, 0.04), (0.12, 0.03, 0.09), case)
    else:
        for x in (-1, 1):
            piece.box((x * width * 0.35, 0, 0.03), (0.02, 0.2, 0.06), case)
    return piece
