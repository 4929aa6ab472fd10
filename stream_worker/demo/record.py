"""What a run has brought about so far: its events by identity, and how far each stage is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from stream_worker import events
from stream_worker.contract import SCHEMAS

E = TypeVar("E", bound=events.Event)


class Counts(NamedTuple):
    """How far a stage is: `done` of `total`, as far as the total is known by now."""

    done: int
    total: int


@dataclass(slots=True)
class RunRecord:
    """The events of one run of some photos, as they become visible to a read_committed reader.

    `photos` maps every image_id to the photo's file. `objects`, `reconstructions` and `plys` (files) go by object_id.
    `workers` says who wrote an event, where its record told: by (schema name, image_id or object_id).
    """

    run: str
    photos: dict[str, Path]
    manifests: dict[str, events.DetectionEvent] = field(default_factory=dict)
    objects: dict[str, events.ObjectEvent] = field(default_factory=dict)
    reconstructions: dict[str, events.ReconstructionEvent] = field(default_factory=dict)
    completed: dict[str, events.CompletedImageEvent] = field(default_factory=dict)
    workers: dict[tuple[str, str], str] = field(default_factory=dict)
    plys: dict[str, Path] = field(default_factory=dict)

    def add(self, event: events.Event, worker: str = "") -> bool:
        """Take an event in; False if it says nothing new, or belongs to another run or photo."""
        if getattr(event, "run", None) != self.run or getattr(event, "image_id", None) not in self.photos:
            return False
        match event:
            case events.DetectionEvent():
                return self._keep(self.manifests, event.image_id, event, worker)
            case events.ObjectEvent():
                return self._keep(self.objects, event.object_id, event, worker)
            case events.ReconstructionEvent():
                return self._keep(self.reconstructions, event.object_id, event, worker)
            case events.CompletedImageEvent():
                known = self.completed.get(event.image_id)
                if known is not None and known.revision < event.revision:
                    del self.completed[event.image_id]
                return self._keep(self.completed, event.image_id, event, worker)
        return False

    def _keep(self, kept: dict[str, E], key: str, event: E, worker: str) -> bool:
        if key in kept:
            return False
        kept[key] = event
        if worker:
            self.workers[SCHEMAS[type(event)], key] = worker
        return True

    @property
    def stages(self) -> dict[str, Counts]:
        """How far images (detected), objects (announced), results and completed images are, in this order."""
        announced = sum(len(manifest.objects) for manifest in self.manifests.values())
        photos = len(self.photos)
        return {
            "images": Counts(len(self.manifests), photos),
            "objects": Counts(len(self.objects), announced),
            "results": Counts(len(self.reconstructions), announced),
            "completed": Counts(len(self.completed), photos),
        }

    @property
    def whole(self) -> bool:
        """Every image has completed, and every event that its outcome was joined from has been seen as well."""
        if self.waiting:
            return False
        for event in self.completed.values():
            if event.status != "failed" and event.image_id not in self.manifests:
                return False
            joined = [item.object_id for item in event.objects if item.status != "missing"]
            if any(key not in self.objects or key not in self.reconstructions for key in joined):
                return False
        return True

    @property
    def waiting(self) -> list[str]:
        """Images without a terminal outcome, in the order of publishing."""
        return [image_id for image_id in self.photos if image_id not in self.completed]

    @property
    def succeeded(self) -> bool:
        """Every image completed, and completely."""
        return not self.waiting and all(event.status == "complete" for event in self.completed.values())
