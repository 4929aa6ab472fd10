"""What an audit can find, and the report that it gives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

EXAMPLES = 10
"""Most examples that are named of a kind."""


class Kind(StrEnum):
    """The ways in which a guarantee can be broken: the closed list."""

    MISSING = "missing"
    DUPLICATED = "duplicated"
    REVISION_GAP = "revision_gap"
    UNASKED = "unasked"
    UNEXPLAINED = "unexplained"
    SILENTLY_REFUSED = "silently_refused"
    NO_MANIFEST = "no_manifest"
    OBJECTS_DIFFER = "objects_differ"
    STATUS_DIFFERS = "status_differs"
    BLOB_MISSING = "blob_missing"
    BLOB_WRONG = "blob_wrong"
    REPEATED = "repeated"
    INVALID_EVENT = "invalid_event"


MEANING: dict[Kind, tuple[str, str]] = {
    Kind.MISSING: ("G1", "accepted, the deadline has passed, and there is no outcome"),
    Kind.DUPLICATED: ("G1", "the same revision of an outcome twice, or one after a final outcome"),
    Kind.REVISION_GAP: ("G1", "a revision without the one before it"),
    Kind.UNASKED: ("G1", "events of an image that nobody published"),
    Kind.UNEXPLAINED: ("G1", "an outcome that contradicts itself, or does not say why"),
    Kind.SILENTLY_REFUSED: ("G1", "an image event that can't be read, and is not in dead-letters"),
    Kind.NO_MANIFEST: ("G2", "an outcome or results, but no manifest"),
    Kind.OBJECTS_DIFFER: ("G2", "an outcome's objects are not the manifest's"),
    Kind.STATUS_DIFFERS: ("G2", "an object's status is not what its results say"),
    Kind.BLOB_MISSING: ("G3", "a referenced blob is not in the store"),
    Kind.BLOB_WRONG: ("G3", "a referenced blob has another size or sha256"),
    Kind.REPEATED: ("G4", "more manifests than image events, or more results than manifests named objects"),
    Kind.INVALID_EVENT: ("contract", "an event of ours that does not match its schema"),
}
"""The guarantee that a kind breaks, and what it is."""


@dataclass(slots=True)
class Example:
    """One violation. `place` is topic, partition and offset of the event that asked for the image and has the names,
    where they are not known."""

    detail: str
    image_id: str | None = None
    run: str | None = None
    place: tuple[str, int, int] | None = None


@dataclass(slots=True)
class Findings:
    """Violations: all of them counted, the first few of each kind named."""

    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[Example]] = field(default_factory=dict)

    def add(self, kind: Kind, example: Example) -> None:
        """Count a violation."""
        self.counts[kind] += 1
        named = self.examples.setdefault(kind, [])
        if len(named) < EXAMPLES:
            named.append(example)


@dataclass(slots=True)
class ImageCounts:
    """Images, each (image_id, run) once."""

    events: int = 0
    """Image events that can be read, repeated ones too."""
    accepted: int = 0
    refused: int = 0
    """Image events that can't be read: no image, a dead letter."""
    complete: int = 0
    partial: int = 0
    failed: int = 0
    in_flight: int = 0
    """No outcome yet, and the deadline has not passed."""
    outside: int = 0
    """Events of images that were accepted outside the window, or before what the topic still holds: not judged."""
    strays: int = 0
    """Results whose object the manifest does not name: the join leaves them out. No violation."""
    unjudged: int = 0
    """Outcomes whose manifest the topic no longer holds."""

    @property
    def terminal(self) -> int:
        """Accepted images with an outcome."""
        return self.complete + self.partial + self.failed


@dataclass(slots=True)
class BlobCounts:
    """Blobs, each reference (key, sha256, size) once."""

    referenced: int = 0
    read_bytes: int = 0
    unreferenced: int | None = None
    """Blobs that nothing references, older than the grace. None: not looked for, references may be outside."""
    unreferenced_age_unknown: int = 0
    unreferenced_keys: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What an audit has found."""

    at: datetime
    """Outcomes were read up to this moment."""
    since: datetime | None
    until: datetime | None
    quick: bool
    images: ImageCounts
    blobs: BlobCounts
    findings: Findings
    dead_letters: dict[str, Counter[str]]
    """Reasons of the dead letters, by the topic that they come from."""
    took_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every guarantee holds."""
        return not self.findings.counts

    def plain(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        images = self.images
        return {
            "holds": self.holds,
            "at": self.at.isoformat(),
            "from": self.since.isoformat() if self.since else None,
            "to": self.until.isoformat() if self.until else None,
            "quick": self.quick,
            "took_s": round(self.took_s, 3),
            "images": {
                "events": images.events,
                "accepted": images.accepted,
                "refused": images.refused,
                "terminal": images.terminal,
                "complete": images.complete,
                "partial": images.partial,
                "failed": images.failed,
                "in_flight": images.in_flight,
                "missing": self.findings.counts[Kind.MISSING],
                "duplicated": self.findings.counts[Kind.DUPLICATED],
                "outside": images.outside,
                "strays": images.strays,
                "unjudged": images.unjudged,
            },
            "blobs": {
                "referenced": self.blobs.referenced,
                "read_bytes": self.blobs.read_bytes,
                "missing": self.findings.counts[Kind.BLOB_MISSING],
                "wrong": self.findings.counts[Kind.BLOB_WRONG],
                "unreferenced": self.blobs.unreferenced,
                "unreferenced_age_unknown": self.blobs.unreferenced_age_unknown,
                "unreferenced_keys": self.blobs.unreferenced_keys,
            },
            "dead_letters": {topic: dict(sorted(reasons.items())) for topic, reasons in self.dead_letters.items()},
            "violations": {
                kind.value: {
                    "guarantee": MEANING[kind][0],
                    "meaning": MEANING[kind][1],
                    "count": self.findings.counts[kind],
                    "examples": [
                        {"image_id": one.image_id, "run": one.run, "detail": one.detail}
                        for one in self.findings.examples.get(kind, [])
                    ],
                }
                for kind in Kind
                if self.findings.counts[kind]
            },
        }
