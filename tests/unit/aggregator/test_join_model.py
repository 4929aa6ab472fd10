"""The join against a plain definition of it: any interleaving of arrivals, repeats, ticks, crashes and restarts.

The definition keeps the whole history of every image and works everything out of it anew each time. It shares
nothing with the join but the words. What it does not foretell is which finished images there is no memory for: of those
it is told, and checks that they might go, in that order.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st

from stream_worker.aggregator import changelog
from stream_worker.aggregator.image import IMAGE_BYTES, OBJECT_BYTES, RESULT_BYTES
from stream_worker.aggregator.join import Join, Sizes, Step
from stream_worker.aggregator.memory import RESULT_TO_COME_BYTES
from stream_worker.events import CompletedImageEvent

from .examples import at, manifest, result

Key = tuple[str, str]
DEADLINES: dict[Key, float] = {("photo", "live"): 100, ("photo", "again"): 100, ("other", "live"): 160}
IMAGES = list(DEADLINES)
PLENTY = 2**30
ONE_RESULT = IMAGE_BYTES + 1200 + RESULT_BYTES
ONE_MANIFEST = IMAGE_BYTES + 1000 + 3 * (OBJECT_BYTES + RESULT_TO_COME_BYTES)
"""As large as an image gets with one result, and with a manifest of three objects."""
REPLACED = 600
"""How much larger a good result is than the failed one whose place it takes."""


@dataclass
class Arrived:
    kind: str
    value: tuple[Any, ...]


@dataclass
class Image:
    """All that ever happened to an image, since it was last forgotten."""

    deadline: float
    history: list[Arrived] = field(default_factory=list)
    first_at: float = 0
    stray: bool = False
    last_outcome_at: float = 0
    outcomes: list[Any] = field(default_factory=list)

    def first_manifest(self) -> tuple[int, bool] | None:
        return next((a.value for a in self.history if a.kind == "manifest"), None)

    def state_of(self, index: int) -> tuple[int, str, str | None]:
        results = [a.value for a in self.history if a.kind == "result" and a.value[0] == index]
        good = [attempt for _, failed, attempt in results if not failed]
        bad = [attempt for _, failed, attempt in results if failed]
        if good:
            return index, "reconstructed", good[0]
        if bad:
            return index, "failed", bad[0]
        return index, "missing", None

    def failures(self) -> int:
        return sum(arrived.kind == "result" and arrived.value[1] for arrived in self.history)

    def seen_now(self) -> tuple[str, str | None, list[tuple[int, str, str | None]]]:
        """Status, reason, objects: what a reader should be told if told now."""
        said = self.first_manifest()
        if said is None:
            return "failed", "deadline", []
        count, failed = said
        if failed:
            return "failed", "fetch_failed", []
        objects = [self.state_of(index) for index in range(count)]
        whole = all(status == "reconstructed" for _, status, _ in objects)
        return ("complete" if whole else "partial"), None, objects

    def must_tell(self, now: float, clock: bool) -> bool:
        if not self.history:
            return False
        told = self.seen_now()
        if self.outcomes:
            return bool(told != self.outcomes[-1])
        overdue = clock and now >= self.deadline
        if self.first_manifest() is None:
            return overdue and not self.stray
        return overdue or told[0] == "failed" or all(status != "missing" for _, status, _ in told[2])

    def goes_at(self, grace: float) -> float | None:
        """When it is to be forgotten; None while it is still to have an outcome."""
        if self.outcomes:
            return max(self.last_outcome_at, self.deadline) + grace
        if self.history and self.stray and self.first_manifest() is None:
            return max(self.first_at, self.deadline) + grace
        return None

    def may_go_early(self) -> bool:
        """Whether no later arrival but a second manifest could make a first outcome out of it."""
        return self.stray if self.first_manifest() is None and not self.outcomes else self.first_manifest() is not None


class Definition:
    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.images = {key: Image(deadline) for key, deadline in DEADLINES.items()}
        self.floor = -1.0

    def arrive(self, key: Key, kind: str, value: tuple[Any, ...], now: float) -> list[Any]:
        image = self.images[key]
        if not image.history:
            image.first_at = now
            image.stray = kind == "result" and (now >= image.deadline + self.grace or image.deadline <= self.floor)
        image.history.append(Arrived(kind, value))
        return self._tell(key, now, clock=False)

    def tick(self, now: float) -> list[Any]:
        told = []
        for key, image in self.images.items():
            told += self._tell(key, now, clock=True)
            goes_at = image.goes_at(self.grace)
            if goes_at is not None and now >= goes_at:
                self._forget(key)
        return told

    def known(self) -> set[Key]:
        return {key for key, image in self.images.items() if image.history}

    def went(self, gone: list[Key], now: float) -> list[Key]:
        """These, in this order, were forgotten for want of memory: check that they might. Those that went early."""
        early = []
        for key in gone:
            image = self.images[key]
            assert image.may_go_early(), f"{key} was forgotten too early"
            goes_at = image.goes_at(self.grace)
            others = [other.goes_at(self.grace) for other in self.images.values() if other.may_go_early()]
            assert goes_at == min(other for other in others if other is not None), f"{key} went before its turn"
            if goes_at is not None and goes_at > now:
                early.append(key)
                self.floor = max(self.floor, image.deadline if image.outcomes else -1)
            self._forget(key)
        return early

    def _forget(self, key: Key) -> None:
        self.images[key] = Image(DEADLINES[key])

    def _tell(self, key: Key, now: float, clock: bool) -> list[Any]:
        image = self.images[key]
        if not image.must_tell(now, clock):
            return []
        image.outcomes.append(image.seen_now())
        image.last_outcome_at = now
        return [(*key, len(image.outcomes), *image.outcomes[-1])]


def told_by(outcome: CompletedImageEvent) -> Any:
    """An outcome in the definition's words."""
    objects = [(found.index, found.status, found.model.version if found.model else None) for found in outcome.objects]
    return (
        outcome.image_id,
        outcome.run,
        outcome.revision,
        outcome.status,
        outcome.reason.code if outcome.reason else None,
        objects,
    )


class Record(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None


class Log:
    """The changelog, of which compaction has done away with some of what it may: what a new owner would read."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.end = 0

    def write(self, step: Step) -> None:
        for change in [*step.changes, *([step.floor] if step.floor is not None else [])]:
            self.records.append(Record(self.end, *changelog.record(change)))
            self.end += 1

    def compact(self, seed: int) -> None:
        """Drop any older versions; a tombstone may follow when nothing is left that it takes away."""
        numbers = random.Random(seed)
        newest = {record.key: record.offset for record in self.records}
        kept: list[Record] = []
        for record in self.records:
            last = record.offset == newest[record.key]
            useless = record.value is None and not any(earlier.key == record.key for earlier in kept)
            if (last and not useless) or numbers.random() < 0.5:
                kept.append(record)
        self.records = kept

    def restored(self, grace: float, allowed: int) -> Join:
        newest: changelog.Newest = {}
        changelog.keep_newest(newest, self.records)
        join = Join(timedelta(seconds=grace), allowed)
        for key, (offset, value) in newest.items():
            join.take(changelog.decoded(key, value, str(offset)))
        join.taken()
        return join


class Lane:
    """The join with its inputs, as the runner has them: in order, held back while it is full, and committed or not."""

    def __init__(self, grace: float, allowed: int) -> None:
        self.grace, self.allowed = grace, allowed
        self.definition, self.log = Definition(grace), Log()
        self.join = self.log.restored(grace, allowed)
        self.waiting: dict[str, deque[tuple[Key, tuple[Any, ...]]]] = {"manifest": deque(), "result": deque()}
        self.crashes = False
        self.manifests: Counter[Key] = Counter()
        self.told: Counter[tuple[str, str, int]] = Counter()
        self.forgotten_in_time: set[Key] = set()

    def arrive(self, kind: str, key: Key, value: tuple[Any, ...], now: float) -> None:
        self.waiting[kind].append((key, value))
        self.take_in(now)

    def take_in(self, now: float) -> None:
        """All that is waiting, as far as the join is not full."""
        inputs = ("manifest", "awaiting_results"), ("result", "awaiting_manifest")
        taken = True
        while taken:
            taken = False
            for kind, state in inputs:
                if self.waiting[kind] and not self.join.memory.full(state):  # type: ignore[arg-type]
                    self._feed(kind, *self.waiting[kind].popleft(), now)
                    taken = True
                elif self.waiting[kind]:
                    event(f"full for a {kind}")

    def tick(self, now: float) -> None:
        before = self.definition.known()
        expected = self.definition.tick(now)
        self.forgotten_in_time |= before - self.definition.known()
        self._commit(lambda: self.join.tick(at(now)), expected, now)
        self.take_in(now)

    def restart(self, seed: int) -> None:
        held = self.join.sizes(), self.join.memory.bytes
        self.log.compact(seed)
        self.join = self.log.restored(self.grace, self.allowed)
        assert (self.join.sizes(), self.join.memory.bytes) == held

    def _feed(self, kind: str, key: Key, value: tuple[Any, ...], now: float) -> None:
        expected = self.definition.arrive(key, kind, value, now)
        deadline = DEADLINES[key]
        if kind == "manifest":
            self.manifests[key] += 1
            count, failed = value
            said = manifest(count, *key, failed=failed, deadline=deadline)
            self._commit(lambda: self.join.manifest(said, at(now)), expected, now)
        else:
            index, failed, attempt = value
            came = result(index, *key, failed=failed, attempt=attempt, deadline=deadline)
            self._commit(lambda: self.join.result(came, at(now)), expected, now)

    def _commit(self, step_of: Callable[[], Step], expected: list[Any], now: float) -> None:
        if self.crashes:  # before the commit: nothing of it is in the changelog, and the input comes again
            step_of()
            self.join, self.crashes = self.log.restored(self.grace, self.allowed), False
        step = step_of()
        self.log.write(step)
        told = [told_by(outcome) for outcome in step.outcomes]
        assert sorted(told, key=repr) == sorted(expected, key=repr)
        self._require_once(told)
        gone = [(c.image_id, c.run) for c in step.changes if c.object_id is None and c.event is None]
        for_want_of_memory = [key for key in gone if key in self.definition.known()]
        assert not for_want_of_memory or self.allowed < PLENTY
        early = self.definition.went(for_want_of_memory, now)
        assert len(early) == step.forgotten_early
        self.forgotten_in_time |= set(for_want_of_memory).difference(early)
        self._require_bounded()
        if early:
            event("forgotten early")

    def _require_once(self, told: list[Any]) -> None:
        """G1: a first outcome is the only one, except of a photo that was published again when it was forgotten."""
        for image_id, run, revision, status, *_ in told:
            self.told[image_id, run, revision] += 1
            key = image_id, run
            if self.told[image_id, run, revision] > 1:
                assert self.manifests[key] > 1 or key in self.forgotten_in_time, f"{key}: a second revision {revision}"
            event(f"{status}, revision {min(revision, 3)}")

    def _require_bounded(self) -> None:
        memory, images = self.join.memory, self.join._images
        assert memory.used("finished") <= memory.share("finished")
        assert memory.used("awaiting_manifest") <= memory.share("awaiting_manifest") + ONE_RESULT
        grown = sum(REPLACED * image.failures() for image in self.definition.images.values())
        assert memory.used("awaiting_results") <= memory.share("awaiting_results") + ONE_MANIFEST + grown
        bodies = [[i.manifest or b"", *i.reconstructed.values(), *i.failed.values()] for i in images.values()]
        costs = [IMAGE_BYTES + OBJECT_BYTES * len(i.expected or ()) + RESULT_BYTES * i.held() for i in images.values()]
        assert memory.bytes.total() == sum(costs) + sum(len(body) for all_of in bodies for body in all_of)
        assert memory.images.total() == len(images) == len(self.definition.known())


inputs = st.one_of(
    st.tuples(st.just("manifest"), st.sampled_from(IMAGES), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("result"), st.sampled_from(IMAGES), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("result"), st.just(IMAGES[0]), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("tick")),
    st.tuples(st.just("wait"), st.sampled_from([1, 20, 60])),
    st.tuples(st.just("restart"), st.integers(0, 2**16)),
    st.tuples(st.just("crash")),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(inputs, min_size=10, max_size=60),
    st.sampled_from([0, 30, 200]),
    st.sampled_from([PLENTY, 24_000, 12_000, 6_000, 2_000]),
)
def test_any_interleaving_gives_what_the_definition_gives(
    steps: list[tuple[Any, ...]], grace: float, allowed: int
) -> None:
    now, lane = 0.0, Lane(grace, allowed)
    for number, (kind, *value) in enumerate(steps):
        now += 0.5
        match kind:
            case "manifest":
                key, count, failed = value
                lane.arrive(kind, key, (count, failed and count == 0), now)
            case "result":
                key, index, failed = value
                lane.arrive(kind, key, (index, failed, str(number)), now)
            case "tick":
                lane.tick(now)
            case "wait":
                now += value[0]
            case "restart":
                lane.restart(value[0])
            case "crash":
                lane.crashes = True
    # Whatever it was full of, the deadlines and graces make room: all that waits goes in, and then all is forgotten.
    for _ in range(len(steps) + 2):
        now += max(DEADLINES.values()) + grace
        lane.tick(now)
    lane.tick(now + grace)
    assert not any(lane.waiting.values())
    assert lane.join.sizes() == Sizes(0, 0, 0)
    assert len(lane.join._due) == len(lane.join._spare) == 0
    assert not lane.join.memory.bytes.total()
    for key in lane.manifests:
        assert lane.told[*key, 1], f"{key} has no outcome"
