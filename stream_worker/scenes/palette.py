"""Random materials, by the kind of thing that is made of them."""

from __future__ import annotations

from numpy.random import Generator

from stream_worker.scenes.materials import Colour, Material, hsv, linear

WOODS = (
    (0.80, 0.62, 0.42),
    (0.68, 0.47, 0.28),
    (0.52, 0.33, 0.19),
    (0.36, 0.23, 0.15),
    (0.86, 0.74, 0.58),
    (0.62, 0.55, 0.47),
)


def _phase(rng: Generator) -> tuple[float, float]:
    return (rng.uniform(0, 5), rng.uniform(0, 5))


def choose(rng: Generator, *options: str) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def wood(rng: Generator, turn: bool | None = None) -> Material:
    """Oiled or lacquered wood, from birch to wenge."""
    red, green, blue = WOODS[int(rng.integers(len(WOODS)))]
    light = rng.uniform(0.85, 1.1)
    dark = rng.uniform(0.72, 0.9)
    return Material(
        "wood",
        linear(red * light * dark, green * light * dark * 0.97, blue * light * dark * 0.93),
        linear(red * light, green * light, blue * light),
        scale=rng.uniform(0.03, 0.12),
        turn=bool(rng.integers(2)) if turn is None else turn,
        gloss=rng.uniform(0.02, 0.2),
        shine=rng.uniform(15, 60),
        phase=_phase(rng),
    )


def lacquer(rng: Generator) -> Material:
    """Painted board or plastic: mostly white, grey or black, sometimes a colour."""
    pick = rng.random()
    if pick < 0.4:
        colour = hsv(rng.uniform(0.05, 0.15), rng.uniform(0, 0.08), rng.uniform(0.82, 0.96))
    elif pick < 0.65:
        colour = hsv(rng.random(), rng.uniform(0, 0.1), rng.uniform(0.15, 0.6))
    else:
        colour = hsv(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.3, 0.85))
    return Material(
        "plain", colour, amount=0.03, gloss=rng.uniform(0.05, 0.4), shine=rng.uniform(20, 90), phase=_phase(rng)
    )


def metal(rng: Generator) -> Material:
    """Steel, black powder coat, or brass."""
    pick = rng.random()
    if pick < 0.4:
        colour = hsv(0.6, rng.uniform(0, 0.06), rng.uniform(0.55, 0.8))
    elif pick < 0.8:
        colour = hsv(0.1, rng.uniform(0, 0.1), rng.uniform(0.08, 0.25))
    else:
        colour = hsv(rng.uniform(0.09, 0.12), rng.uniform(0.4, 0.6), rng.uniform(0.6, 0.8))
    return Material(
        "plain", colour, amount=0.03, gloss=rng.uniform(0.4, 0.9), shine=rng.uniform(30, 120), phase=_phase(rng)
    )


def frame(rng: Generator) -> Material:
    """What legs and frames are made of."""
    return (wood, metal, lacquer)[int(rng.choice(3, p=[0.5, 0.3, 0.2]))](rng)


def board(rng: Generator) -> Material:
    """What table tops and cupboards are made of."""
    return wood(rng) if rng.random() < 0.6 else lacquer(rng)


def cloth_colour(rng: Generator) -> Colour:
    """A colour that furniture cloth comes in: greys and naturals more often than loud ones."""
    pick = rng.random()
    if pick < 0.35:
        return hsv(rng.random(), rng.uniform(0, 0.12), rng.uniform(0.25, 0.85))
    if pick < 0.6:
        return hsv(rng.uniform(0.05, 0.13), rng.uniform(0.12, 0.4), rng.uniform(0.45, 0.92))
    return hsv(rng.random(), rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.78))


def cloth(rng: Generator, patterned: float = 0.15) -> Material:
    """Upholstery; with probability `patterned` it has stripes, checks or dots."""
    colour = cloth_colour(rng)
    if rng.random() < patterned:
        return Material(
            choose(rng, "stripes", "checks", "dots"),
            colour,
            cloth_colour(rng),
            scale=rng.uniform(0.03, 0.16),
            turn=bool(rng.integers(2)),
            phase=_phase(rng),
        )
    return Material("fabric", colour, amount=rng.uniform(0.04, 0.2), phase=_phase(rng))


def upholstery(rng: Generator) -> Material:
    """Cloth, or leather."""
    if rng.random() < 0.75:
        return cloth(rng, 0.08)
    colour = hsv(rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.7), rng.uniform(0.12, 0.75))
    return Material(
        "plain", colour, amount=0.12, gloss=rng.uniform(0.15, 0.4), shine=rng.uniform(12, 30), phase=_phase(rng)
    )


def linen(rng: Generator) -> Material:
    """Bed linen: light, or as colourful as any cloth."""
    if rng.random() < 0.55:
        colour = hsv(rng.random(), rng.uniform(0, 0.12), rng.uniform(0.8, 0.97))
        return Material("fabric", colour, amount=rng.uniform(0.02, 0.08), phase=_phase(rng))
    return cloth(rng, 0.3)


def cardboard(rng: Generator) -> Material:
    """Mostly brown, sometimes white."""
    colour = hsv(rng.uniform(0.07, 0.11), rng.uniform(0.35, 0.55), rng.uniform(0.55, 0.8))
    if rng.random() < 0.12:
        colour = hsv(0.1, rng.uniform(0, 0.06), rng.uniform(0.8, 0.93))
    return Material("cardboard", colour, turn=bool(rng.integers(2)), phase=_phase(rng))


def floor(rng: Generator) -> Material:
    """Boards, tiles, carpet or concrete."""
    turn = bool(rng.integers(2))
    pick = rng.random()
    if pick < 0.5:
        base = wood(rng)
        return Material(
            "planks",
            base.colour,
            base.second,
            rng.uniform(0.08, 0.22),
            turn=turn,
            gloss=rng.uniform(0.02, 0.3),
            shine=25,
            phase=_phase(rng),
        )
    if pick < 0.7:
        colour = hsv(rng.uniform(0.02, 0.6), rng.uniform(0, 0.25), rng.uniform(0.4, 0.92))
        grout = hsv(0.1, 0.05, rng.uniform(0.3, 0.8))
        return Material(
            "tiles",
            colour,
            grout,
            rng.uniform(0.2, 0.8),
            rng.uniform(0.02, 0.1),
            turn,
            rng.uniform(0.1, 0.5),
            50,
            phase=_phase(rng),
        )
    if pick < 0.88:
        return Material("carpet", cloth_colour(rng), amount=rng.uniform(0.06, 0.16), phase=_phase(rng))
    return Material(
        "plain", hsv(0.1, rng.uniform(0, 0.1), rng.uniform(0.4, 0.75)), amount=0.15, gloss=0.1, phase=_phase(rng)
    )


def wall(rng: Generator) -> Material:
    """Paint, wallpaper, now and then brick."""
    pick = rng.random()
    colour = hsv(rng.random(), rng.uniform(0, 0.18), rng.uniform(0.68, 0.97))
    if pick < 0.45:
        colour = hsv(rng.uniform(0.06, 0.16), rng.uniform(0, 0.12), rng.uniform(0.85, 0.97))
    elif pick > 0.88:
        colour = hsv(rng.random(), rng.uniform(0.15, 0.5), rng.uniform(0.3, 0.65))
    kind = rng.random()
    if kind < 0.75:
        return Material("plain", colour, amount=rng.uniform(0.01, 0.05), phase=_phase(rng))
    second = (
        colour[0] * rng.uniform(0.6, 0.92),
        colour[1] * rng.uniform(0.6, 0.92),
        colour[2] * rng.uniform(0.6, 0.92),
    )
    if kind < 0.9:
        return Material(choose(rng, "stripes", "dots"), colour, second, rng.uniform(0.06, 0.4), phase=_phase(rng))
    red = hsv(rng.uniform(0.0, 0.07), rng.uniform(0.05, 0.55), rng.uniform(0.5, 0.9))
    return Material("bricks", red, hsv(0.1, 0.05, rng.uniform(0.6, 0.85)), rng.uniform(0.2, 0.28), phase=_phase(rng))


def rug(rng: Generator) -> Material:
    """A carpet that lies on the floor."""
    return Material(
        choose(rng, "carpet", "carpet", "stripes", "checks", "dots", "art"),
        cloth_colour(rng),
        cloth_colour(rng),
        scale=rng.uniform(0.12, 0.5),
        amount=rng.uniform(0.08, 0.16),
        turn=bool(rng.integers(2)),
        phase=_phase(rng),
    )


def green(rng: Generator) -> Material:
    """Leaves."""
    return Material(
        "leaf",
        hsv(rng.uniform(0.22, 0.4), rng.uniform(0.4, 0.75), rng.uniform(0.25, 0.6)),
        gloss=0.15,
        shine=15,
        phase=_phase(rng),
    )


def art(rng: Generator) -> Material:
    """A picture's motif."""
    return Material(
        "art",
        hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.9)),
        hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.2, 0.95)),
        scale=rng.uniform(0.15, 0.6),
        phase=_phase(rng),
    )
