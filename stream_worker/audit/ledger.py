"""The books of an audit: events go in, violations come out. Pure: it knows no Kafka, no store and no clock.

First all that asks for an image (`accepted`, `refused`, `replayed`), then all else in any order, then `close`. Events
need not come in the order in which they were written; where they nearly do, less is held.

What is held: per accepted image one entry of a `DigestTable`, 49 bytes that take 74 to 147 in the table (measured: 80
at 40,000); and per image in flight, or whose outcome a late result may still change, its object ids with a status
each (measured: 1.2 kB with 3 objects). These are let go as soon as the outcome and all that it rests on have been
seen and agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal, NamedTuple

from stream_worker.audit.digests import DigestTable, digest_of
from stream_worker.audit.findings import Example, Findings, ImageCounts, Kind
from stream_worker.audit.outcomes import Said, contradictions, differences, said
from stream_worker.errors import Reason
from stream_worker.events import CompletedImageEvent, DetectionEvent, ImageEvent, ReconstructionEvent
from stream_worker.topics import DETECTIONS, IMAGES

SKEW_MS = 600_000
"""Clocks of different machines are at most this far apart."""

_NEVER_MS = 2**62
STATUSES = ("complete", "partial", "failed")
_STATUS = 0b0011
_SETTLED = 0b0100
_RECENT = 0b1000
_BEFORE = 0b10000
_REPLAYED = 0b100000
"""No image event asked for it, but a manifest that a replay wrote: its place is there."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the ledger may conclude from what it is not shown. Times in ms since 1970."""

    cut_ms: int
    """Outcomes written until then were seen, and all that they rest on."""
    settle_ms: int = 60_000
    """What should have happened less than this before the cut may still be on its way: workers fail over."""
    grace_ms: int = 3_600_000
    """How long the join remembers a finished image: a result that is later than that changes nothing."""
    deadline_s: float = 900.0
    """Of images that name none."""
    since_ms: int | None = None
    """Only images accepted from then on are judged."""
    all_images: bool = True
    """Whether every image event ever was shown: then an image that is not among them was never published."""
    all_manifests: bool = True
    all_results: bool = True
    drained: bool = False
    """Nothing is on its way: what is not there now is missing."""

    @property
    def settled_ms(self) -> int:
        """What is older than this has had its time."""
        return _NEVER_MS if self.drained else self.cut_ms - self.settle_ms


class Entry(NamedTuple):
    """What is kept of every image, as `_ENTRY` packs it."""

    due_ms: int = 0
    partition: int = 0
    offset: int = 0
    events: int = 0
    manifests: int = 0
    named: int = 0
    """Objects named by all its manifests."""
    results: int = 0
    revision: int = 0
    flags: int = 0


_ENTRY = "qHQHHIIHB"
_MOST = 0xFFFF


@dataclass(slots=True)
class Detail:
    """What is kept of an image until its outcome is settled."""

    image_id: str
    run: str
    manifest: Literal["detected", "failed"] | None = None
    """Status of the first one: it stands, as in the join."""
    manifest_ms: int = 0
    deadline_ms: int = 0
    expected: frozenset[bytes] = frozenset()
    results: dict[bytes, tuple[bool, int]] = field(default_factory=dict)
    """By object: whether it was reconstructed, and when that was first said."""
    outcome: Said | None = None
    """The last one."""


class Ledger:
    """The books of one audit."""

    def __init__(self, scope: Scope, findings: Findings) -> None:
        self.scope = scope
        self.findings = findings
        self.images = ImageCounts()
        self.dead_letters: dict[str, Counter[str]] = {}
        self._table = DigestTable(_ENTRY)
        self._refused = DigestTable("qHQB")
        self._open: dict[bytes, Detail] = {}
        self._forgotten: list[tuple[int, bytes]] = []

    @property
    def held(self) -> int:
        """Images whose details are held now."""
        return len(self._open)

    # ------------------------------------------------------------------ image events, first

    def accepted(self, event: ImageEvent, at_ms: int, partition: int, offset: int) -> None:
        """An image event that can be read. The first one of an image counts, the others repeat it."""
        digest = digest_of(event.image_id, event.run)
        due_ms = at_ms + int(1000 * (event.deadline_s or self.scope.deadline_s))
        self._asked(digest, Entry(due_ms, partition, offset, events=1))

    def replayed(self, event: DetectionEvent, partition: int, offset: int) -> None:
        """A manifest that a replay wrote from objects found before: it asks for the image as an image event does."""
        due_ms = int(event.deadline_at.timestamp() * 1000)
        self._asked(digest_of(event.image_id, event.run), Entry(due_ms, partition, offset, events=1, flags=_REPLAYED))

    def _asked(self, digest: bytes, entry: Entry) -> None:
        self.images.events += 1
        known = self._entry(digest)
        if known is None:
            self.images.accepted += 1
        else:
            entry = known._replace(due_ms=min(entry.due_ms, known.due_ms), events=min(known.events + 1, _MOST))
        self._table.put(digest, *entry)

    def refused(self, at_ms: int, partition: int, offset: int) -> None:
        """An image event that can't be read: it must be in dead-letters."""
        self.images.refused += 1
        due_ms = at_ms + int(1000 * self.scope.deadline_s)
        self._refused.put(digest_of(str(partition), str(offset)), due_ms, partition, offset, 0)

    # ------------------------------------------------------------------ then all else

    def dead_letter(self, topic: str, reason: str, partition: int, offset: int) -> None:
        """A dead letter of a record that was at this place."""
        self.dead_letters.setdefault(topic, Counter())[reason] += 1
        digest = digest_of(str(partition), str(offset))
        if topic == "images" and (there := self._refused.get(digest)) is not None:
            self._refused.put(digest, *there[:3], 1)

    def manifest(self, event: DetectionEvent, at_ms: int) -> bool:
        """A manifest. Whether it is of an image that is judged."""
        digest, entry = self._judged(event.image_id, event.run)
        if entry is None:
            return False
        entry = entry._replace(
            manifests=min(entry.manifests + 1, _MOST),
            named=entry.named + len(event.objects),
        )
        self._table.put(digest, *entry)
        if self.scope.all_images and 0 < entry.events < entry.manifests and self._is_old(at_ms):
            detail = f"{entry.manifests} manifests of {entry.events} image events"
            self._found(Kind.REPEATED, event, detail)
        if entry.flags & _SETTLED:
            return True
        held = self._detail(digest, event)
        if held.manifest is None:
            held.manifest, held.manifest_ms = event.status, at_ms
            held.deadline_ms = int(event.deadline_at.timestamp() * 1000)
            if event.status == "detected":
                held.expected = frozenset(bytes.fromhex(one.object_id) for one in event.objects)
            for stray in held.results.keys() - held.expected:
                self.images.strays += 1
                del held.results[stray]
        self._settle(digest, held)
        return True

    def result(self, event: ReconstructionEvent, at_ms: int) -> bool:
        """An object's result. Whether it is of an image that is judged."""
        digest, entry = self._judged(event.image_id, event.run)
        if entry is None:
            return False
        recent = 0 if self._is_old(at_ms) else _RECENT
        entry = entry._replace(results=entry.results + 1, flags=entry.flags | recent)
        self._table.put(digest, *entry)
        if entry.flags & _SETTLED:
            return True
        held = self._detail(digest, event)
        name = bytes.fromhex(event.object_id)
        if held.manifest is not None and name not in held.expected:
            self.images.strays += 1
            return True
        good = event.status == "reconstructed"
        known = held.results.get(name)
        if known is None or (good, -at_ms) > (known[0], -known[1]):
            held.results[name] = good, at_ms
        self._settle(digest, held)
        return True

    def outcome(self, event: CompletedImageEvent, at_ms: int) -> bool:
        """An outcome. Whether it is of an image that is judged."""
        digest, entry = self._judged(event.image_id, event.run)
        if entry is None:
            return False
        before = self.scope.since_ms is not None and at_ms < self.scope.since_ms
        if not before:
            self._in_order(event, entry)
        flags = entry.flags & ~_STATUS | STATUSES.index(event.status) + 1
        if before:
            flags |= _SETTLED | _BEFORE  # a repeated publish of an image that was finished before the window
        entry = entry._replace(revision=max(entry.revision, min(event.revision, _MOST)), flags=flags)
        self._table.put(digest, *entry)
        if before:
            self._open.pop(digest, None)
            return False
        for detail in contradictions(event):
            self._found(Kind.UNEXPLAINED, event, detail)
        if entry.flags & _SETTLED:
            return True
        held = self._detail(digest, event)
        if held.outcome is not None and held.manifest is not None:
            self._compare(held.outcome, held, last=False)
        held.outcome = said(event)
        self._settle(digest, held)
        if digest in self._open:
            heappush(self._forgotten, (self._forgotten_ms(held) + SKEW_MS, digest))
        return True

    def let_go(self, now_ms: int) -> None:
        """Judge and forget what nothing written after `now_ms` can change."""
        while self._forgotten and self._forgotten[0][0] < now_ms:
            _, digest = heappop(self._forgotten)
            held = self._open.get(digest)
            if held is None or held.outcome is None or held.manifest is None:
                continue
            forgotten_ms = self._forgotten_ms(held) + SKEW_MS
            if forgotten_ms < now_ms:
                self._judge(held)
                self._done(digest)
            else:
                heappush(self._forgotten, (forgotten_ms, digest))

    def close(self) -> None:
        """Judge what is left. To be called once, at the end."""
        for held in self._open.values():
            if held.outcome is not None:
                self._judge(held)
        for digest, entry in self._entries():
            if entry.events == 0:
                continue
            status = entry.flags & _STATUS
            place = DETECTIONS if entry.flags & _REPLAYED else IMAGES, entry.partition, entry.offset
            if status:
                name = STATUSES[status - 1]
                setattr(self.images, name, getattr(self.images, name) + 1)
            elif entry.due_ms > self.scope.settled_ms:
                self.images.in_flight += 1
            else:
                self.findings.add(Kind.MISSING, Example(self._how_far(entry, digest), place=place))
            if entry.flags & _RECENT or not self.scope.all_manifests:
                continue
            if status and entry.results and not entry.manifests and STATUSES[status - 1] == "failed":
                # Objects and manifest are written in one transaction: it was not whole.
                detail = f"{entry.results} results, and never a manifest"
                self.findings.add(Kind.NO_MANIFEST, Example(detail, place=place))
            elif entry.results > entry.named > 0 and self.scope.all_images:
                detail = f"{entry.results} results, and the manifests named {entry.named} objects"
                self.findings.add(Kind.REPEATED, Example(detail, place=place))
        for _, (due_ms, partition, offset, recorded) in self._refused.items():
            if not recorded and due_ms <= self.scope.settled_ms:
                detail = f"images-{partition}, offset {offset}: can't be read, and no dead letter says so"
                self.findings.add(Kind.SILENTLY_REFUSED, Example(detail))

    # ------------------------------------------------------------------ how it is judged

    def _judged(self, image_id: str, run: str) -> tuple[bytes, Entry | None]:
        """The entry of an image that is judged; else None, after it was counted."""
        digest = digest_of(image_id, run)
        entry = self._entry(digest)
        if entry is not None:
            return digest, entry
        if not self.scope.all_images:
            self.images.outside += 1
            return digest, None
        self.findings.add(Kind.UNASKED, Example("no image event asks for it", image_id, run))
        entry = Entry()
        self._table.put(digest, *entry)
        return digest, entry

    def _in_order(self, event: CompletedImageEvent, entry: Entry) -> None:
        before = bool(entry.flags & _BEFORE)
        final = entry.flags & _SETTLED and not before and entry.flags & _STATUS != 1 + STATUSES.index("partial")
        if event.revision <= entry.revision:
            self._found(Kind.DUPLICATED, event, f"revision {event.revision} again, after {entry.revision}")
        elif final:
            self._found(Kind.DUPLICATED, event, f"revision {event.revision} after a final outcome")
        elif event.revision > entry.revision + 1 and not before:
            self._found(Kind.REVISION_GAP, event, f"revision {event.revision} after {entry.revision}")

    def _settle(self, digest: bytes, held: Detail) -> None:
        """Let an image's details go as soon as nothing can change its outcome, and all agrees."""
        if held.outcome is None or held.manifest is None:
            return
        final = held.outcome.status == "failed" and held.manifest == "failed"
        if held.outcome.status == "complete" and held.manifest == "detected":
            final = len(held.results) == len(held.expected) and all(good for good, _ in held.results.values())
        if final:
            self._judge(held)
            self._done(digest)

    def _done(self, digest: bytes) -> None:
        del self._open[digest]
        entry = self._entry(digest)
        assert entry is not None
        self._table.put(digest, *entry._replace(flags=entry.flags | _SETTLED))

    def _judge(self, held: Detail) -> None:
        """Hold the last outcome against the manifest and the results."""
        outcome = held.outcome
        assert outcome is not None
        self._compare(outcome, held, last=True)
        if held.manifest is None or outcome.status == "failed":
            return
        for name in outcome.objects.keys() & held.expected:
            index, status = outcome.objects[name]
            good, at_ms = held.results.get(name, (None, 0))
            if status != "missing" and good is None:
                if self.scope.all_results:
                    self._found(Kind.STATUS_DIFFERS, outcome, f"object {index} is {status}, and has no result")
            elif status == "reconstructed" and not good:
                self._found(Kind.STATUS_DIFFERS, outcome, f"object {index} is reconstructed, and its results failed")
            elif (good is not None if status == "missing" else good and status == "failed") and (
                # Too late for the join, or too new to have been joined: the outcome owes nothing to such a result.
                at_ms <= self._forgotten_ms(held) and self._is_old(at_ms)
            ):
                result = "reconstructed" if good else "failed"
                self._found(Kind.STATUS_DIFFERS, outcome, f"object {index} is {status}, and its result: {result}")

    def _compare(self, outcome: Said, held: Detail, *, last: bool) -> None:
        """Hold an outcome's objects against the manifest's."""
        if held.manifest is not None:
            joined = last and held.manifest_ms <= self._forgotten_ms(held) and self._is_old(held.manifest_ms)
            for detail in differences(outcome, held.manifest, held.expected, manifest_seen=joined):
                self._found(Kind.OBJECTS_DIFFER, outcome, detail)
        elif outcome.status == "failed" and outcome.code == Reason.DEADLINE:
            pass  # results had come, and no manifest: `close` sees whether there never was one
        elif self.scope.all_manifests:
            self._found(Kind.NO_MANIFEST, outcome, f"{outcome.status}, revision {outcome.revision}")
        else:
            self.images.unjudged += 1

    def _forgotten_ms(self, held: Detail) -> int:
        """When the join forgets the image: no result after that changes the outcome."""
        assert held.outcome is not None
        return max(held.outcome.completed_ms, held.deadline_ms) + self.scope.grace_ms

    def _how_far(self, entry: Entry, digest: bytes) -> str:
        overdue = max(0, self.scope.cut_ms - entry.due_ms) / 1000
        if not entry.manifests:
            place = f"{entry.results} results, no manifest" if entry.results else "no manifest"
        else:
            held = self._open.get(digest)
            failed = held is not None and held.manifest == "failed"
            place = "a failed manifest" if failed else f"a manifest, {entry.results} of {entry.named} results"
        return f"deadline passed {overdue:.0f} s ago; {place}"

    def _is_old(self, at_ms: int) -> bool:
        return at_ms <= self.scope.settled_ms

    # ------------------------------------------------------------------ the books

    def _entry(self, digest: bytes) -> Entry | None:
        values = self._table.get(digest)
        return None if values is None else Entry._make(values)

    def _entries(self) -> Iterator[tuple[bytes, Entry]]:
        return ((digest, Entry._make(values)) for digest, values in self._table.items())

    def _detail(self, digest: bytes, event: DetectionEvent | ReconstructionEvent | CompletedImageEvent) -> Detail:
        held = self._open.get(digest)
        if held is None:
            held = self._open[digest] = Detail(event.image_id, event.run)
        return held

    def _found(self, kind: Kind, event: DetectionEvent | CompletedImageEvent | Said, detail: str) -> None:
        self.findings.add(kind, Example(detail, event.image_id, event.run))
