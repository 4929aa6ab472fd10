"""Furniture: what each class looks like, in several random shapes."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from stream_worker.scenes.furniture.accents import lamp, plant, tv
from stream_worker.scenes.furniture.rest import bed, table
from stream_worker.scenes.furniture.seats import chair, sofa
from stream_worker.scenes.furniture.storage import box, cabinet, shelf
from stream_worker.scenes.furniture.workbench import Piece

MAKERS: dict[str, Callable[[Generator], Piece]] = {
    "sofa": sofa,
    "chair": chair,
    "table": table,
    "bed": bed,
    "lamp": lamp,
    "shelf": shelf,
    "cabinet": cabinet,
    "box": box,
    "plant": plant,
    "tv": tv,
}
"""How to make one of each class. The order is that of the detector's class numbers."""

CLASSES: tuple[str, ...] = tuple(MAKERS)
"""The classes, in the order of their numbers."""
