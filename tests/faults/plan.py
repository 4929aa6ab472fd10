"""What is published, and what must come out of it: all of it drawn from the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from stream_worker.errors import Reason
from stream_worker.events import CompletedImageEvent, object_id
from tests.stubs import Faulty, ScriptedDots, photo

POISON_IMAGES = {
    Faulty.REFUSE: Reason.DETECT_FAILED,
    Faulty.CRASH: Reason.MODEL_CRASHED,
    Faulty.HANG: Reason.MODEL_TIMEOUT,
}
"""Numbers of objects that stand for a fault of the detector, and the reason that its reader must be told."""
POISON_OBJECTS = {
    ScriptedDots.REFUSE: Reason.RECONSTRUCT_FAILED,
    ScriptedDots.CRASH: Reason.MODEL_CRASHED,
    ScriptedDots.HANG: Reason.MODEL_TIMEOUT,
}
KINDS = (0.80, 0.15, 0.05)
"""Of the poison: what is refused, what crashes, what hangs. A hang costs its deadline twice, so it is rare."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a reader is told of an image: the objects by id, each with why it failed, or None."""

    status: str
    reason: str | None
    objects: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Image:
    """One photo, as its path says: its number, its objects (or its poison) and their fates."""

    number: int
    objects: int
    fates: str = ""

    @property
    def image_id(self) -> str:
        return f"image-{self.number}"

    def path(self, object_ms: int) -> str:
        return f"/{self.number}/{self.objects}/{object_ms}/{self.fates}"

    def outcome(self) -> Outcome:
        """What must come of it."""
        if self.objects in POISON_IMAGES:
            return Outcome("failed", POISON_IMAGES[self.objects].value, {})
        why = [POISON_OBJECTS[fate].value if fate in POISON_OBJECTS else None for fate in self.fates]
        objects = {object_id(self.image_id, "live", index): code for index, code in enumerate(why)}
        return Outcome("partial" if any(why) else "complete", None, objects)


def drawn(path: str) -> bytes:
    """The photo that a path asks for."""
    _, number, objects, object_ms, fates = path.split("/")
    return photo(int(number), int(objects), fates, int(object_ms))


@dataclass(frozen=True, slots=True)
class Plan:
    """Image events in the order of their publishing, repeated ones included, and the outcome of every image."""

    events: list[Image]
    expected: Mapping[str, Outcome]

    @property
    def objects(self) -> int:
        """Objects that readers must see, failed ones included."""
        return sum(len(outcome.objects) for outcome in self.expected.values())

    @property
    def statuses(self) -> Counter[str]:
        return Counter(outcome.status for outcome in self.expected.values())


def plan(seed: int, images: int, *, most_objects: int = 6, poison: float = 0.01, duplicates: float = 0.2) -> Plan:
    """`images` photos of up to `most_objects` objects; a share of both is poison, a share of photos comes twice."""
    numbers = random.Random(f"{seed}/plan")
    events: list[Image] = []
    for number in range(images):
        if numbers.random() < poison:
            image = Image(number, numbers.choices(list(POISON_IMAGES), KINDS)[0])
        else:
            fates = "".join(_fate(numbers, poison) for _ in range(numbers.randint(0, most_objects)))
            image = Image(number, len(fates), fates)
        events.append(image)
        if numbers.random() < duplicates:
            events.insert(numbers.randint(0, len(events)), image)
    return Plan(events, {image.image_id: image.outcome() for image in events})


def _fate(numbers: random.Random, poison: float) -> str:
    return numbers.choices(list(POISON_OBJECTS), KINDS)[0] if numbers.random() < poison else ScriptedDots.FINE


def outcome(event: CompletedImageEvent) -> Outcome:
    """What the event says, in the plan's terms. An object that is missing says so with its reason, too."""
    return Outcome(
        event.status,
        event.reason.code if event.reason else None,
        {one.object_id: one.reason.code if one.reason else None for one in event.objects},
    )
