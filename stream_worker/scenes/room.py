"""Furnishes a room: what stands where, which light falls in, and from where it is seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import atan2, pi

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from stream_worker.scenes import palette
from stream_worker.scenes.camera import Camera, handheld
from stream_worker.scenes.decor import decorate, knick_knack
from stream_worker.scenes.furniture import MAKERS
from stream_worker.scenes.furniture.accents import small_plant, table_lamp
from stream_worker.scenes.furniture.workbench import Piece
from stream_worker.scenes.light import Lighting, daylight
from stream_worker.scenes.materials import Material
from stream_worker.scenes.solids import Solid

Floats = npt.NDArray[np.float32]

THEMES: dict[str, dict[str, float]] = {
    "living": {
        "sofa": 3,
        "table": 2,
        "chair": 2,
        "lamp": 2,
        "shelf": 1.5,
        "cabinet": 1.5,
        "plant": 2,
        "tv": 2,
        "box": 0.5,
    },
    "bedroom": {"bed": 4, "cabinet": 2.5, "lamp": 2, "chair": 1, "shelf": 1, "plant": 1, "tv": 0.7, "box": 0.7},
    "dining": {"table": 2.5, "chair": 5, "cabinet": 1.5, "lamp": 1, "plant": 1.5, "shelf": 1},
    "office": {"table": 2, "chair": 2, "shelf": 2.5, "lamp": 1.5, "plant": 1.5, "cabinet": 1.5, "box": 1, "tv": 1},
    "moving": {
        "box": 6,
        "chair": 1.5,
        "table": 1,
        "sofa": 1,
        "lamp": 1,
        "shelf": 1,
        "cabinet": 1,
        "bed": 0.7,
        "tv": 0.7,
    },
    "anything": dict.fromkeys(MAKERS, 1.0),
}
MOST_OF = {"sofa": 2, "bed": 1, "tv": 1, "table": 3, "shelf": 3}
WALLED = ("shelf", "cabinet")
FILLERS = ("box", "plant", "lamp", "chair", "cabinet")
BULK = ("bed", "sofa", "shelf", "cabinet", "table", "tv", "chair", "lamp", "plant", "box")
"""Order of placing: what needs a wall or much floor first."""

TRIES = 14
NEAREST = 1.0
"""Metres between the camera and the nearest point of a piece."""
IN_FRAME = 0.55
SEEN = 0.4
"""Least shares of a piece that lie in the image and are not behind others, by sample points."""
LEAST_IMAGE_SHARE = 0.012
"""Least share of the image that the rectangle around a piece fills."""


@dataclass(slots=True)
class Standing:
    """A placed piece: its class, its solids, and the world box around them."""

    label: str
    low: Floats
    high: Floats
    place: tuple[float, float, float]
    yaw: float
    piece: Piece
    carries: bool = False


@dataclass(slots=True)
class Room:
    """Everything that is drawn: six faces (left, right, front, back, floor, ceiling), solids, light, camera."""

    size: tuple[float, float, float]
    faces: list[Material]
    camera: Camera
    lighting: Lighting
    labels: list[str] = field(default_factory=list)
    solids: list[Solid] = field(default_factory=list)
    casters: int = 0
    """How many of the solids, from the first, cast shadows: what hangs on the walls does not."""
    standing: list[Standing] = field(default_factory=list)


def furnish(rng: Generator, width: int, height: int, objects: int | None) -> Room:
    """A random room for an image of that size. `objects` asks for so many pieces; a small room may hold fewer."""
    if objects is None:
        objects = int(rng.choice(13, p=[0.03, 0.05, 0.09, 0.12, 0.14, 0.14, 0.13, 0.1, 0.08, 0.05, 0.04, 0.02, 0.01]))
    grow = min(objects, 10) * 0.12
    size = (rng.uniform(2.9, 4.6) + grow, rng.uniform(3.3, 4.6) + grow, rng.uniform(2.4, 2.9))
    camera = handheld(rng, size, width, height)
    wall = palette.wall(rng)
    faces = [wall, wall, wall, wall, palette.floor(rng), Material("plain", (0.8, 0.79, 0.76), amount=0.02)]
    if rng.random() < 0.3:
        faces[3] = palette.wall(rng)
    room = Room(size, faces, camera, daylight(rng, size))
    for label in _wishes(rng, objects):
        _place(rng, room, label)
    for _ in range(3 * objects):
        if len(room.standing) >= objects:
            break
        _place(rng, room, palette.choose(rng, *FILLERS))
    for owner, standing in enumerate(room.standing, start=1):
        room.labels.append(standing.label)
        room.solids += standing.piece.placed(standing.place, standing.yaw, owner)
    for standing in room.standing:
        if standing.piece.top and not standing.carries and rng.random() < 0.5:
            room.solids += knick_knack(rng, standing.piece.top, standing.place, standing.yaw)
    room.casters = len(room.solids)
    room.solids += decorate(rng, room.size, room.lighting)
    return room


def _wishes(rng: Generator, objects: int) -> list[str]:
    weights = THEMES[palette.choose(rng, *THEMES)]
    names = list(weights)
    shares = np.array([weights[name] for name in names])
    wishes: list[str] = []
    while len(wishes) < objects:
        label = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        if wishes.count(label) < MOST_OF.get(label, 99):
            wishes.append(label)
        elif rng.random() < 0.1:
            wishes.append("box")
    return sorted(wishes, key=BULK.index)


def _place(rng: Generator, room: Room, label: str) -> bool:
    """Look for a free and visible place for a new piece of that class; false where there is none."""
    for attempt in range(TRIES):
        on_top = None
        if (
            label in ("lamp", "plant", "tv", "box")
            and attempt < TRIES // 2
            and rng.random() < (0.9 if label == "tv" else 0.5)
        ):
            on_top = _carrier(rng, room, label)
        piece = _make(rng, label, on_top is not None)
        if on_top is not None:
            place, yaw = _on(rng, on_top, piece)
            if piece.top and piece.size[0] > (on_top.piece.top or (0, 0, 0))[0] * 1.1:
                continue
        elif label == "tv":
            place, yaw = _against_wall(rng, room, piece)
            place = (place[0], place[1], rng.uniform(0.75, 1.2))
        elif label == "chair" and rng.random() < 0.7:
            place, yaw = _at_table(rng, room, piece)
        elif label in WALLED or rng.random() < (0.8 if piece.faces and label != "chair" else 0.4):
            place, yaw = _against_wall(rng, room, piece)
        else:
            place, yaw = _anywhere(rng, room, piece)
        candidate = _stand(label, piece, place, yaw)
        if _fits(room, candidate, on_top) and _visible(room, candidate):
            room.standing.append(candidate)
            if on_top is not None:
                on_top.carries = True
            return True
    return False


def _make(rng: Generator, label: str, small: bool) -> Piece:
    if small and label == "lamp":
        return table_lamp(rng)
    if small and label == "plant":
        return small_plant(rng)
    return MAKERS[label](rng)


def _carrier(rng: Generator, room: Room, label: str) -> Standing | None:
    able = [
        s
        for s in room.standing
        if s.piece.top
        and not s.carries
        and (s.label == "box") == (label == "box")
        and s.place[2] == 0
        and s.piece.top[2] < 1.15
    ]
    return able[int(rng.integers(len(able)))] if able else None


def _on(rng: Generator, carrier: Standing, piece: Piece) -> tuple[tuple[float, float, float], float]:
    assert carrier.piece.top is not None
    width, depth, height = carrier.piece.top
    free_x, free_y = max(width - piece.size[0], 0) / 2, max(depth - piece.size[1], 0) / 2
    turn = np.array([[np.cos(carrier.yaw), -np.sin(carrier.yaw)], [np.sin(carrier.yaw), np.cos(carrier.yaw)]])
    x, y = turn @ np.array([rng.uniform(-free_x, free_x), rng.uniform(-free_y, free_y)])
    yaw = carrier.yaw + rng.normal(0, 0.08)
    return (carrier.place[0] + float(x), carrier.place[1] + float(y), carrier.place[2] + height), yaw


def _against_wall(rng: Generator, room: Room, piece: Piece) -> tuple[tuple[float, float, float], float]:
    wide, deep, _ = room.size
    gap = piece.size[1] / 2 + rng.uniform(0.02, 0.1)
    half = piece.size[0] / 2
    side = palette.choose(rng, "back", "back", "left", "right")
    if side == "back":
        return (rng.uniform(-wide / 2 + half, max(wide / 2 - half, half - wide / 2 + 0.01)), deep - gap, 0.0), 0.0
    along = rng.uniform(min(1.2 + half, deep - half - 0.01), deep - half)
    if side == "left":
        return (-wide / 2 + gap, along, 0.0), pi / 2
    return (wide / 2 - gap, along, 0.0), -pi / 2


def _anywhere(rng: Generator, room: Room, piece: Piece) -> tuple[tuple[float, float, float], float]:
    wide, deep, _ = room.size
    yaw = rng.uniform(-pi, pi) if rng.random() < 0.5 else rng.choice([-pi / 2, 0, 0, pi / 2]) + rng.normal(0, 0.1)
    return (rng.uniform(-wide / 2 + 0.3, wide / 2 - 0.3), rng.uniform(1.3, deep - 0.3), 0.0), float(yaw)


def _at_table(rng: Generator, room: Room, piece: Piece) -> tuple[tuple[float, float, float], float]:
    tables = [s for s in room.standing if s.label == "table"]
    if not tables:
        return _anywhere(rng, room, piece)
    chosen = tables[int(rng.integers(len(tables)))]
    cx, cy, _ = chosen.place
    side = int(rng.integers(4))
    x0, y0, x1, y1 = chosen.low[0], chosen.low[1], chosen.high[0], chosen.high[1]
    gap = piece.size[1] / 2 + rng.uniform(0.0, 0.15)
    along_x, along_y = rng.uniform(x0 + 0.2, max(x1 - 0.2, x0 + 0.21)), rng.uniform(y0 + 0.2, max(y1 - 0.2, y0 + 0.21))
    x, y = [(along_x, y0 - gap), (along_x, y1 + gap), (x0 - gap, along_y), (x1 + gap, along_y)][side]
    to_x, to_y = (0.0, cy - y) if side < 2 else (cx - x, 0.0)
    return (float(x), float(y), 0.0), atan2(to_x, -to_y) + rng.normal(0, 0.2)


def _stand(label: str, piece: Piece, place: tuple[float, float, float], yaw: float) -> Standing:
    width, depth, height = piece.size
    c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
    half_x, half_y = (c * width + s * depth) / 2, (s * width + c * depth) / 2
    x, y, z = place
    low = np.array([x - half_x, y - half_y, z], np.float32)
    return Standing(label, low, np.array([x + half_x, y + half_y, z + height], np.float32), place, yaw, piece)


def _fits(room: Room, new: Standing, carrier: Standing | None) -> bool:
    wide, deep, high = room.size
    if new.low[0] < -wide / 2 or new.high[0] > wide / 2 or new.high[1] > deep or new.high[2] > high:
        return False
    nearest = np.clip(room.camera.position, new.low, new.high)
    if float(np.linalg.norm((nearest - room.camera.position)[:2])) < NEAREST:
        return False
    margin = np.float32(0.02)
    return not any(
        other is not carrier and bool(np.all(new.low < other.high - margin) and np.all(other.low < new.high - margin))
        for other in room.standing
    )


def _samples(standing: Standing) -> Floats:
    steps = np.linspace(0.06, 0.94, 3, dtype=np.float32)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")).reshape(3, -1)
    points: Floats = standing.low[:, None] + grid * (standing.high - standing.low)[:, None]
    return points


def _visible(room: Room, new: Standing) -> bool:
    """Whether the new piece is well in the image, and nothing is hidden too much, by it or from it."""
    camera = room.camera
    points = _samples(new)
    u, v, depth = camera.project(points)
    inside = (depth > 0.3) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    if inside.mean() < IN_FRAME:
        return False
    spread = np.ptp(np.clip(u[inside], 0, camera.width)) * np.ptp(np.clip(v[inside], 0, camera.height))
    if spread < LEAST_IMAGE_SHARE * camera.width * camera.height:
        return False
    everyone = [*room.standing, new]
    for standing in everyone:
        others = [o for o in everyone if o is not standing]
        if others and _clear(camera, _samples(standing), others) < SEEN:
            return False
    return True


def _clear(camera: Camera, points: Floats, others: list[Standing]) -> float:
    """Share of the points that no other piece's box hides."""
    way = points - camera.position[:, None]
    way = np.where(np.abs(way) < 1e-6, np.float32(1e-6), way)
    low = np.stack([o.low for o in others])[:, :, None] - camera.position[None, :, None]
    high = np.stack([o.high for o in others])[:, :, None] - camera.position[None, :, None]
    first, second = low / way, high / way
    enter = np.minimum(first, second).max(1)
    leave = np.maximum(first, second).min(1)
    hidden = ((enter < leave) & (enter > 0) & (enter < 0.97)).any(0)
    return 1 - float(hidden.mean())
