"""Known sizes of things: turns a relative size into an absolute one.

A photo alone does not tell a doll's chair from a chair: with a plane for depth, every length is relative. Who knows how
large things of a class are can say so in a TOML file, in millimetres, any of the three sides:

    [sofa]
    width = 2000
    height = 850

    [chair]
    height = 900

The whole scene is then scaled about the camera, which leaves the photo as it is: box, pose and volume together. The
factor is the one that fits the sides that are given best: the geometric mean of known / measured, least squares of
logarithms.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDES = ("width", "depth", "height")
UNIT = "mm"
RELATIVE = "relative"
"""How a unit begins that can be scaled: one in metres is somebody's measurement, and stays."""
LONGEST_MM = 100_000.0


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Sides in mm by class name."""

    classes: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """Raises ValueError with one line that says what is wrong with the file, OSError where it can't be read."""
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}") from error
        return cls({name: _sides(path, name, value) for name, value in found.items()})

    def scaled(self, geometry: Mapping[str, Any], label: str) -> dict[str, Any]:
        """The geometry (fields of `events.Geometry`) in mm, where its class is known and its unit is relative.

        As it is otherwise, and where a side that is known has no length to compare with.
        """
        sides, box, pose = self.classes.get(label), geometry["oriented_box"], geometry["pose"]
        if sides is None or not str(geometry["unit"]).startswith(RELATIVE) or any(box[side] <= 0 for side in sides):
            return dict(geometry)
        factor = math.exp(sum(math.log(known / box[side]) for side, known in sides.items()) / len(sides))
        return {
            **geometry,
            "unit": UNIT,
            "oriented_box": {
                **box,
                "center": [factor * value for value in box["center"]],
                **{side: factor * box[side] for side in SIDES},
            },
            "pose": {
                **pose,
                "translation": [factor * value for value in pose["translation"]],
                "scale": factor * pose["scale"],
            },
            "volume": factor**3 * geometry["volume"],
            "volume_method": f"{geometry['volume_method']}; scaled by the catalogue's {' and '.join(sides)}",
        }


def _sides(path: Path, name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not value or not set(value) <= set(SIDES):
        raise ValueError(f"{path}: [{name}] must have one or more of width, depth and height, and nothing else")
    for side, length in value.items():
        if isinstance(length, bool) or not isinstance(length, int | float) or not 0 < length <= LONGEST_MM:
            raise ValueError(f"{path}: {name}.{side} must be millimetres up to {LONGEST_MM:g}, not {length!r}")
    return {side: float(value[side]) for side in SIDES if side in value}
