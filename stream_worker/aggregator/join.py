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
a new `failed` outcome. But after a long outage of ours it may be the first we see of the image. So it is a
*stray*: held for `grace`, in case its manifest follows, and then dropped in silence.

Memory is bounded, by a share for each of what an image waits for (see `memory.py`):

    awaiting_results    Over its share, the join is `full` for manifests. Results still go in, and finish these images.
    awaiting_manifest   Over its share, the join is `full` for results. Manifests still go in. An image that has failed
                        for want of a manifest counts here until it is forgotten: its manifest may still be to come,
                        and must find the outcome that there is, and not make a second first one.
    finished            Never full: over its share, the images whose grace ends first are forgotten early. Strays count
                        here, and go the same way.

Full for both, the deadlines make room: nothing waits for ever, and nothing that went in is lost.

What is forgotten early costs the late results of a `partial` image their revision, and a photo that is published
again is done again, as after its grace. It must not cost more: a late or repeated result, alone, must not make a second
first outcome. How late it is can't tell such a result any more, so the join keeps a *floor*: the latest deadline of all
that was forgotten early. A result of an unknown image whose deadline is not above the floor is a stray too. (A mark for
each forgotten image would be exact, but a finished image is little more than a mark; and to forget only what is past
its deadline would let a week's deadlines fill the memory, or stop the lane.) What this costs in turn: a photo below the
floor whose results came and whose manifest never does (a damaged record, which is a dead letter) has no outcome.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from stream_worker.aggregator import outcome
from stream_worker.aggregator.appointments import Appointments, Key
from stream_worker.aggregator.image import Image, pack
from stream_worker.aggregator.memory import Memory, State
from stream_worker.errors import FatalError
from stream_worker.events import (
    CompletedImageEvent,
    DetectionEvent,
    JoinFloorEvent,
    JoinStateEvent,
    ReconstructionEvent,
)

EARLY_RESULTS = 1000
"""Most results held for an image without a manifest: the most objects that a detector may find."""

AT_ONCE = 200
"""Most images that one step forgets or finishes by the clock: a step must fit in a transaction."""


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
    forgotten_early: int = 0
    floor: JoinFloorEvent | None = None
    """The floor, where it has risen."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is held: images that wait for something, finished ones (strays included), and results."""

    open: int
    finished: int
    results: int


class Join:
    """The images of one lane."""

    def __init__(self, grace: timedelta, allowed: int) -> None:
        """`allowed`: bytes that it may hold. A state from the changelog is given to `take`, then checked by `taken`."""
        self._grace = grace
        self._images: dict[Key, Image] = {}
        self._due = Appointments()
        """Of the images that wait for something."""
        self._spare = Appointments()
        """When to forget the others. Only these may be forgotten early."""
        self._floor: datetime | None = None
        self._unclaimed: list[tuple[Key, str, bool, bytes]] = []
        self.memory = Memory(allowed)

    # ------------------------------------------------------------------ from the changelog

    def take(self, piece: JoinStateEvent | JoinFloorEvent) -> None:
        """Take in a piece that a former join's changes have left; in any order."""
        if isinstance(piece, JoinFloorEvent):
            self._floor = piece.deadline_at
            return
        key = _key(piece)
        if piece.image is not None:
            self._images[key] = Image.of(piece.image)
        if (result := piece.result) is not None:
            self._unclaimed.append((key, result.object_id, result.status == "reconstructed", pack(result)))

    def taken(self) -> None:
        """That was all. Raises FatalError where the pieces don't fit together."""
        unclaimed, self._unclaimed = self._unclaimed, []
        for key, name, good, data in unclaimed:
            image = self._images.get(key)
            if image is None or image.final:
                raise FatalError(f"join state: image {key[0]!r}, run {key[1]}: a result too many")
            image.keep_packed(name, good, data)
        for key, image in self._images.items():
            if not (image.final or image.manifest or image.held()):
                raise FatalError(f"join state: image {key[0]!r}, run {key[1]}: neither manifest nor results")
            self.memory.add(image, self._state(image))
            self._schedule(key, image)

    # ------------------------------------------------------------------ what goes in

    def manifest(self, event: DetectionEvent, now: datetime) -> Step:
        """The detector has said what is in an image."""
        key = _key(event)
        image = self._images.get(key) or Image(now, event.deadline_at)
        if image.expected is not None or image.final:
            return Step()
        step = Step()
        with self._changing(key, image):
            image.keep_manifest(event)
            for name in [name for name in image.result_ids() if name not in (image.expected or ())]:
                image.drop_result(name)
                step.changes.append(Change(*key, name, None))
            verdict = "failed" if event.status == "failed" else _verdict(image)
            self._move_on(step, key, image, verdict, now)
        return self._within_share(step, now)

    def result(self, event: ReconstructionEvent, now: datetime) -> Step:
        """An object was reconstructed, or could not be."""
        key = _key(event)
        image = self._images.get(key)
        first = image is None
        if image is None:
            image = Image(now, event.deadline_at, stray=self._floor is not None and event.deadline_at <= self._floor)
        if not _is_news(image, event):
            return Step()
        step = Step()
        with self._changing(key, image):
            replaces = event.object_id in image.failed
            image.keep_result(event)
            verdict = _verdict(image)
            written = verdict != "complete"  # of a complete image, nothing is kept
            if written:
                piece = JoinStateEvent(image_id=event.image_id, run=event.run, result=event)
                step.changes.append(Change(*key, event.object_id, piece))
            elif replaces:
                step.changes.append(Change(*key, event.object_id, None))
            if verdict is not None or first:
                self._move_on(step, key, image, verdict, now, unwritten=None if written else event.object_id)
        return self._within_share(step, now)

    def tick(self, now: datetime, limit: int = AT_ONCE) -> Step:
        """What the clock brings about, for at most `limit` images: deadlines, and what can be forgotten."""
        step = Step()
        for appointments in (self._due, self._spare):
            while limit > 0 and (key := appointments.due(now)) is not None:
                limit -= 1
                image = self._images[key]
                if image.revision > 0 or self._is_stray(image):
                    self._forget(step, key, image)
                    continue
                with self._changing(key, image):
                    self._move_on(step, key, image, "failed" if image.expected is None else "partial", now)
        return self._within_share(step, now, limit)

    # ------------------------------------------------------------------ how much it holds

    def sizes(self) -> Sizes:
        """How much is held now."""
        images = self.memory.images
        return Sizes(
            open=images["awaiting_manifest"] + images["awaiting_results"],
            finished=images["finished"],
            results=self.memory.results.total(),
        )

    def open_since(self) -> datetime | None:
        """When it first heard of an image that is open still: the one whose deadline comes first."""
        first = self._due.first()
        image = None if first is None else self._images[first[1]]
        return None if image is None or image.revision else image.first_seen_at

    def _within_share(self, step: Step, now: datetime, limit: int = AT_ONCE) -> Step:
        """Forget finished images that there is no room for, those first whose grace ends first; at most `limit`."""
        while limit > 0 and self.memory.over("finished") and (first := self._spare.first()) is not None:
            due_at, key = first
            image = self._images[key]
            limit -= 1
            self._forget(step, key, image)
            if due_at <= now:
                continue
            step.forgotten_early += 1
            if image.revision > 0 and (self._floor is None or image.deadline_at > self._floor):
                self._floor = image.deadline_at
                step.floor = JoinFloorEvent(deadline_at=image.deadline_at)
        return step

    # ------------------------------------------------------------------ what an image goes through

    @contextmanager
    def _changing(self, key: Key, image: Image) -> Iterator[None]:
        """While an image, new or known, is changed: count it out before, and in afterwards."""
        if key in self._images:
            self.memory.remove(image, self._state(image))
        self._images[key] = image
        try:
            yield
        finally:
            self.memory.add(image, self._state(image))

    def _move_on(
        self,
        step: Step,
        key: Key,
        image: Image,
        verdict: outcome.Status | None,
        now: datetime,
        unwritten: str | None = None,
    ) -> None:
        """Add the outcome that there is (if any) and the image's piece. `unwritten` has no piece in the changelog."""
        if verdict is not None:
            image.revision += 1
            image.status = verdict
            image.finished_at = now
            step.outcomes.append(_outcome(key, image, verdict, now))
            image.final = verdict == "complete" or (verdict == "failed" and image.expected is not None)
        if image.final:
            step.changes += [Change(*key, name, None) for name in image.result_ids() if name != unwritten]
            image.drop_bodies()
        step.changes.append(Change(*key, None, JoinStateEvent(image_id=key[0], run=key[1], image=image.piece())))
        self._schedule(key, image)

    def _forget(self, step: Step, key: Key, image: Image) -> None:
        del self._images[key]
        self._due.cancel(key)
        self._spare.cancel(key)
        self.memory.remove(image, self._state(image))
        step.changes += [Change(*key, name, None) for name in (*image.result_ids(), None)]

    def _schedule(self, key: Key, image: Image) -> None:
        """Note when the clock next matters to this image."""
        due_at = image.ends_at()
        if image.finished_at is not None:
            due_at = max(image.finished_at, due_at) + self._grace
        elif self._is_stray(image):
            due_at = max(image.first_seen_at, due_at) + self._grace
        kept, left = (self._due, self._spare) if self._state(image) != "finished" else (self._spare, self._due)
        left.cancel(key)
        kept.set(key, due_at)

    def _state(self, image: Image) -> State:
        if image.final or self._is_stray(image):
            return "finished"
        if image.expected is None:
            return "awaiting_manifest"
        return "finished" if image.revision else "awaiting_results"

    def _is_stray(self, image: Image) -> bool:
        """Whether the image began with a result, and may be one that was finished and forgotten."""
        if image.revision > 0 or image.expected is not None:
            return False
        return image.stray or image.first_seen_at >= image.ends_at() + self._grace


def _key(event: DetectionEvent | ReconstructionEvent | JoinStateEvent) -> Key:
    return event.image_id, sys.intern(event.run)  # one string for the thousands of images of a run


def _is_news(image: Image, event: ReconstructionEvent) -> bool:
    if image.final or event.object_id in image.reconstructed:
        return False
    if event.object_id in image.failed:
        return event.status == "reconstructed"
    if image.expected is None:
        return image.held() < EARLY_RESULTS
    return event.object_id in image.expected


def _verdict(image: Image) -> outcome.Status | None:
    """The outcome that the manifest and the results give by themselves; None while it is still to come."""
    if image.expected is None:
        return None
    if len(image.reconstructed) == len(image.expected):
        return "complete"
    all_there = image.held() == len(image.expected)
    return "partial" if all_there or image.revision else None


def _outcome(key: Key, image: Image, verdict: outcome.Status, now: datetime) -> CompletedImageEvent:
    results = image.results()
    manifest = image.opened_manifest()
    if manifest is not None:
        return outcome.joined(verdict, image.revision, manifest, results, now)
    published_at = min(result.published_at for result in results.values())
    return outcome.without_manifest(image.revision, *key, published_at, now)
