"""An image as the join holds it: its events packed, its size known, and its piece of the changelog."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, cast

from stream_worker.events import DetectionEvent, JoinedImage, ReconstructionEvent

MAX_WAIT = timedelta(days=7)
"""No deadline is further away than this, whatever an event says: the topics keep nothing for longer."""

IMAGE_BYTES, OBJECT_BYTES, RESULT_BYTES = 1000, 120, 130
"""What keeping an image costs beside the bytes of its events, the same for every object that its manifest names, and
for every result. Measured with tracemalloc on 3,000 images (Python 3.12): 885 to 950, 115 and 116 to 120 bytes. (Of an
image that is done with, 730: Python 3.11.)"""

_NO_RESULTS = cast("dict[str, bytes]", MappingProxyType({}))
"""Of every image that is done with: two dictionaries less for each. Whoever would put something in is told so."""


@dataclass(slots=True)
class Image:
    """What is known of an image. Events are held as JSON, a fifth of what they take as objects."""

    first_seen_at: datetime
    deadline_at: datetime
    manifest: bytes | None = None
    expected: tuple[str, ...] | None = None
    reconstructed: dict[str, bytes] = field(default_factory=dict)
    failed: dict[str, bytes] = field(default_factory=dict)
    revision: int = 0
    status: Literal["open", "complete", "partial", "failed"] = "open"
    finished_at: datetime | None = None
    final: bool = False
    stray: bool = False
    size: int = IMAGE_BYTES
    """Bytes of its events, and what keeping them costs (an estimate)."""

    def held(self) -> int:
        """How many results are held."""
        return len(self.reconstructed) + len(self.failed)

    def ends_at(self) -> datetime:
        """The deadline that counts."""
        return min(self.deadline_at, self.first_seen_at + MAX_WAIT)

    def to_come(self) -> int:
        """How many results are missing."""
        return len(self.expected or ()) - self.held() if self.expected else 0

    def result_ids(self) -> list[str]:
        return [*self.reconstructed, *self.failed]

    def results(self) -> dict[str, ReconstructionEvent]:
        """The results by object_id."""
        packed = {**self.reconstructed, **self.failed}
        return {name: ReconstructionEvent.model_validate_json(data) for name, data in packed.items()}

    def opened_manifest(self) -> DetectionEvent | None:
        return DetectionEvent.model_validate_json(self.manifest) if self.manifest is not None else None

    # ------------------------------------------------------------------ what changes its size

    def keep_manifest(self, event: DetectionEvent) -> None:
        """Keep the manifest, and the ids that it names, each once."""
        names = dict.fromkeys(named.object_id for named in event.objects) if event.status == "detected" else ()
        self.manifest, self.expected = pack(event), tuple(names)
        self.size += len(self.manifest) + OBJECT_BYTES * len(self.expected)

    def keep_result(self, event: ReconstructionEvent) -> None:
        """Keep a result, in place of the one of the same object that there may be."""
        self.keep_packed(event.object_id, event.status == "reconstructed", pack(event))

    def keep_packed(self, name: str, good: bool, data: bytes) -> None:
        """`keep_result`, for a result that is packed already."""
        self.drop_result(name)
        (self.reconstructed if good else self.failed)[name] = data
        self.size += len(data) + RESULT_BYTES

    def drop_result(self, name: str) -> None:
        """Let a result go, if it is there."""
        for held in (self.reconstructed, self.failed):
            if (data := held.pop(name, None)) is not None:
                self.size -= len(data) + RESULT_BYTES

    def drop_bodies(self) -> None:
        """Let the manifest and all results go."""
        self.manifest = self.expected = None
        self.reconstructed = self.failed = _NO_RESULTS
        self.size = IMAGE_BYTES

    # ------------------------------------------------------------------ its piece of the changelog

    def piece(self) -> JoinedImage:
        return JoinedImage(
            first_seen_at=self.first_seen_at,
            deadline_at=self.deadline_at,
            manifest=self.opened_manifest(),
            revision=self.revision,
            status=self.status,
            finished_at=self.finished_at,
            final=self.final,
            stray=self.stray,
        )

    @classmethod
    def of(cls, piece: JoinedImage) -> Image:
        """The image of a piece, without its results."""
        image = cls(
            first_seen_at=piece.first_seen_at,
            deadline_at=piece.deadline_at,
            revision=piece.revision,
            status=piece.status,
            finished_at=piece.finished_at,
            final=piece.final,
            stray=piece.stray,
        )
        if piece.final:
            image.drop_bodies()
        elif piece.manifest is not None:
            image.keep_manifest(piece.manifest)
        return image


def pack(event: DetectionEvent | ReconstructionEvent) -> bytes:
    return event.model_dump_json(exclude_none=True).encode()
