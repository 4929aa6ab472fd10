"""The join: a manifest and its results go in, in any order and more than once; outcomes come out.

Pure: it knows no Kafka and has no clock; the time is an argument. One `Join` holds the images of one lane.

An image is `open` until it has its first outcome (revision 1):

    failed     at once, when the manifest says so; at the deadline, when results have come but no manifest
    complete   when every object of the manifest is reconstructed (at once, when it names none)
    partial    when every object has a result and some have failed; at the deadline, when some have none

Any news after an outcome that changes it gives the next revision. What is no news:

- A second manifest of an image, even one that differs (its photo was detected twice, with other weights in
  between): the first one stands. Both name their objects by the same ids, as far as they have as many.
- A second result of an object. Only a `reconstructed` one takes the place of a `failed` one: the reader gets
  the better of the two, whichever came first.
- A result whose object the manifest does not name, and any result of a photo that failed.
- Anything once the outcome is `complete`, or `failed` with a manifest: nothing could change it. Of such an
  image only its name and times are kept.

The deadline acts when the clock is looked at (`tick`): a result that is handed over before that still counts.

A finished image is remembered until `grace` after both its last outcome and its deadline, then forgotten. A
result of an unknown image that comes even later than that is most likely of a forgotten one: it must not make
a new `failed` outcome. But after a long outage of ours it may be the first we see of the image. So it is held
for `grace`, in case its manifest follows, and then dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Literal

from stream_worker.aggregator import outcome
from stream_worker.errors import FatalError
from stream_worker.events import (
    CompletedImageEvent,
    DetectionEvent,
    JoinedImage,
    JoinStateEvent,
    ReconstructionEvent,
)

MAX_WAIT = timedelta(days=7)
"""No deadline is further away than this, whatever an event says: the topics keep nothing for longer."""

EARLY_RESULTS = 1000
"""Most results held for an image without a manifest: the most objects that a detector may find."""

Key = tuple[str, str]
"""image_id, run"""


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of the state as it is now: of the image (no object_id) or of one result. Without `event`, it is gone."""

    image_id: str
    run: str
    object_id: str | None
    event: JoinStateEvent | None


@dataclass(slots=True)
class Step:
    """What an input has brought about."""

    outcomes: list[CompletedImageEvent] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is held."""

    open: int
    finished: int
    results: int


@dataclass(slots=True)
class _Image:
    """An image. Events are held as JSON, a fifth of what they take as objects; see `_pack`."""

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
    due_at: datetime | None = None

    def result_ids(self) -> list[str]:
        return [*self.reconstructed, *self.failed]

    def results(self) -> dict[str, ReconstructionEvent]:
        packed = {**self.reconstructed, **self.failed}
        return {name: ReconstructionEvent.model_validate_json(data) for name, data in packed.items()}

    def opened_manifest(self) -> DetectionEvent | None:
        return DetectionEvent.model_validate_json(self.manifest) if self.manifest is not None else None


class Join:
    """The images of one lane."""

    def __init__(self, grace: timedelta) -> None:
        self._grace = grace
        self._images: dict[Key, _Image] = {}
        self._due: list[tuple[datetime, Key]] = []

    @classmethod
    def restored(cls, grace: timedelta, pieces: Iterable[JoinStateEvent]) -> Join:
        """The join whose changes left these pieces, in any order. Raises FatalError where they don't fit together."""
        join = cls(grace)
        results: list[ReconstructionEvent] = []
        for piece in pieces:
            if piece.image is not None:
                join._images[piece.image_id, piece.run] = _from_piece(piece.image)
            if piece.result is not None:
                results.append(piece.result)
        for result in results:
            image = join._images.get((result.image_id, result.run))
            if image is None or image.final:
                raise FatalError(f"join state: image {result.image_id!r}, run {result.run}: a result too many")
            _store(image, result)
        for key, image in join._images.items():
            if not (image.final or image.manifest or image.result_ids()):
                raise FatalError(f"join state: image {key[0]!r}, run {key[1]}: neither manifest nor results")
            join._schedule(key, image)
        return join

    def manifest(self, event: DetectionEvent, now: datetime) -> Step:
        """The detector has said what is in an image."""
        key = event.image_id, event.run
        image = self._images.get(key) or _Image(now, min(event.deadline_at, now + MAX_WAIT))
        if image.expected is not None or image.final:
            return Step()
        self._images[key] = image
        image.manifest = _pack(event)
        image.expected = _expected(event)
        step = Step()
        for name in [name for name in image.result_ids() if name not in image.expected]:
            image.reconstructed.pop(name, None)
            image.failed.pop(name, None)
            step.changes.append(Change(*key, name, None))
        verdict = "failed" if event.status == "failed" else _verdict(image)
        return self._move_on(step, key, image, verdict, now)

    def result(self, event: ReconstructionEvent, now: datetime) -> Step:
        """An object was reconstructed, or could not be."""
        key = event.image_id, event.run
        image = self._images.get(key)
        first = image is None
        image = image or _Image(now, min(event.deadline_at, now + MAX_WAIT))
        if not _is_news(image, event):
            return Step()
        self._images[key] = image
        replaces = event.object_id in image.failed
        _store(image, event)
        verdict = _verdict(image)
        if verdict == "complete":
            step = Step(changes=[Change(*key, event.object_id, None)] if replaces else [])
            return self._move_on(step, key, image, verdict, now, unwritten=event.object_id)
        piece = JoinStateEvent(image_id=event.image_id, run=event.run, result=event)
        step = Step(changes=[Change(*key, event.object_id, piece)])
        if verdict is None and not first:
            return step
        return self._move_on(step, key, image, verdict, now)

    def tick(self, now: datetime, limit: int = 200) -> Step:
        """What the clock brings about, for at most `limit` images: deadlines, and what can be forgotten."""
        step = Step()
        while self._due and self._due[0][0] <= now and limit > 0:
            due_at, key = heappop(self._due)
            image = self._images.get(key)
            if image is None or image.due_at != due_at:
                continue  # an older appointment of an image that has moved on
            image.due_at = None
            limit -= 1
            if image.revision == 0 and not self._is_stray(image):
                verdict: outcome.Status = "failed" if image.expected is None else "partial"
                self._move_on(step, key, image, verdict, now)
            else:
                del self._images[key]
                step.changes += [Change(*key, name, None) for name in (*image.result_ids(), None)]
        return step

    def sizes(self) -> Sizes:
        """How much is held now. Walks over all images."""
        images = self._images.values()
        return Sizes(
            open=sum(image.revision == 0 for image in images),
            finished=sum(image.revision > 0 for image in images),
            results=sum(len(image.reconstructed) + len(image.failed) for image in images),
        )

    def _move_on(
        self,
        step: Step,
        key: Key,
        image: _Image,
        verdict: outcome.Status | None,
        now: datetime,
        unwritten: str | None = None,
    ) -> Step:
        """Add the outcome that there is (if any) and the image's piece. `unwritten` has no piece in the changelog."""
        if verdict is not None:
            image.revision += 1
            image.status = verdict
            image.finished_at = now
            step.outcomes.append(_outcome(key, image, verdict, now))
            image.final = verdict == "complete" or (verdict == "failed" and image.expected is not None)
        if image.final:
            step.changes += [Change(*key, name, None) for name in image.result_ids() if name != unwritten]
            image.manifest = image.expected = None
            image.reconstructed, image.failed = {}, {}
        step.changes.append(Change(*key, None, JoinStateEvent(image_id=key[0], run=key[1], image=_to_piece(image))))
        self._schedule(key, image)
        return step

    def _schedule(self, key: Key, image: _Image) -> None:
        """Note when the clock next matters to this image.

        Its older appointments are void. They are all earlier than the one at which it is forgotten, so that none
        outlives it.
        """
        if image.finished_at is not None:
            due_at = max(image.finished_at, image.deadline_at) + self._grace
        elif self._is_stray(image):
            due_at = image.first_seen_at + self._grace
        else:
            due_at = image.deadline_at
        if due_at == image.due_at:
            return
        image.due_at = due_at
        heappush(self._due, (due_at, key))

    def _is_stray(self, image: _Image) -> bool:
        """Whether the image began with a result so late that the image may have been finished and forgotten."""
        return image.revision == 0 and image.expected is None and image.first_seen_at >= image.deadline_at + self._grace


def _is_news(image: _Image, event: ReconstructionEvent) -> bool:
    if image.final or event.object_id in image.reconstructed:
        return False
    if event.object_id in image.failed:
        return event.status == "reconstructed"
    if image.expected is None:
        return len(image.reconstructed) + len(image.failed) < EARLY_RESULTS
    return event.object_id in image.expected


def _verdict(image: _Image) -> outcome.Status | None:
    """The outcome that the manifest and the results give by themselves; None while it is still to come."""
    if image.expected is None:
        return None
    if len(image.reconstructed) == len(image.expected):
        return "complete"
    all_there = len(image.reconstructed) + len(image.failed) == len(image.expected)
    return "partial" if all_there or image.revision else None


def _outcome(key: Key, image: _Image, verdict: outcome.Status, now: datetime) -> CompletedImageEvent:
    results = image.results()
    manifest = image.opened_manifest()
    if manifest is not None:
        return outcome.joined(verdict, image.revision, manifest, results, now)
    published_at = min(result.published_at for result in results.values())
    return outcome.without_manifest(image.revision, *key, published_at, now)


def _store(image: _Image, event: ReconstructionEvent) -> None:
    image.failed.pop(event.object_id, None)
    (image.reconstructed if event.status == "reconstructed" else image.failed)[event.object_id] = _pack(event)


def _pack(event: DetectionEvent | ReconstructionEvent) -> bytes:
    return event.model_dump_json(exclude_none=True).encode()


def _expected(manifest: DetectionEvent) -> tuple[str, ...]:
    """The ids that the manifest names, each once."""
    return tuple(dict.fromkeys(named.object_id for named in manifest.objects)) if manifest.status == "detected" else ()


def _to_piece(image: _Image) -> JoinedImage:
    return JoinedImage(
        first_seen_at=image.first_seen_at,
        deadline_at=image.deadline_at,
        manifest=image.opened_manifest(),
        revision=image.revision,
        status=image.status,
        finished_at=image.finished_at,
        final=image.final,
    )


def _from_piece(piece: JoinedImage) -> _Image:
    return _Image(
        first_seen_at=piece.first_seen_at,
        deadline_at=piece.deadline_at,
        manifest=_pack(piece.manifest) if piece.manifest else None,
        expected=_expected(piece.manifest) if piece.manifest else None,
        revision=piece.revision,
        status=piece.status,
        finished_at=piece.finished_at,
        final=piece.final,
    )
