"""The join against a plain definition of it: any interleaving of arrivals, repeats, ticks and restarts.

The definition keeps the whole history of every image and works everything out of it anew each time. It shares
nothing with the join but the words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from stream_worker import contract
from stream_worker.aggregator import changelog
from stream_worker.aggregator.join import Join, Step
from stream_worker.events import CompletedImageEvent, JoinStateEvent

from .examples import at, manifest, result

DEADLINE = 100
IMAGES = [("photo", "live"), ("photo", "again"), ("other", "live")]


@dataclass
class Arrived:
    kind: str
    value: tuple[Any, ...]


@dataclass
class Image:
    """All that ever happened to an image, since it was last forgotten."""

    history: list[Arrived] = field(default_factory=list)
    first_at: float = 0
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

    def must_tell(self, now: float, clock: bool, grace: float) -> bool:
        if not self.history:
            return False
        told = self.seen_now()
        if self.outcomes:
            return bool(told != self.outcomes[-1])
        overdue = clock and now >= DEADLINE
        if self.first_manifest() is None:
            return overdue and self.first_at < DEADLINE + grace
        return overdue or told[0] == "failed" or all(status != "missing" for _, status, _ in told[2])

    def can_go(self, now: float, grace: float) -> bool:
        if self.outcomes:
            return now >= max(self.last_outcome_at, DEADLINE) + grace
        return self.first_manifest() is None and now >= self.first_at + grace and self.first_at >= DEADLINE + grace


class Definition:
    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.images = {key: Image() for key in IMAGES}

    def arrive(self, key: tuple[str, str], kind: str, value: tuple[Any, ...], now: float) -> list[Any]:
        image = self.images[key]
        if not image.history:
            image.first_at = now
        image.history.append(Arrived(kind, value))
        return self._tell(key, now, clock=False)

    def tick(self, now: float) -> list[Any]:
        told = []
        for key, image in self.images.items():
            told += self._tell(key, now, clock=True)
            if image.can_go(now, self.grace):
                self.images[key] = Image()
        return told

    def _tell(self, key: tuple[str, str], now: float, clock: bool) -> list[Any]:
        image = self.images[key]
        if not image.must_tell(now, clock, self.grace):
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


class Log:
    """The changelog, compacted: what a new owner would read."""

    def __init__(self) -> None:
        self.newest: dict[bytes, bytes] = {}

    def write(self, step: Step) -> None:
        for change in step.changes:
            key, value = changelog.record(change)
            if value is None:
                self.newest.pop(key, None)
            else:
                self.newest[key] = value

    def restored(self, grace: float) -> Join:
        pieces = [contract.decode(JoinStateEvent, value) for value in self.newest.values()]
        return Join.restored(timedelta(seconds=grace), pieces)


inputs = st.one_of(
    st.tuples(st.just("manifest"), st.sampled_from(IMAGES), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("result"), st.sampled_from(IMAGES), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("result"), st.just(IMAGES[0]), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("tick")),
    st.tuples(st.just("wait"), st.sampled_from([1, 20, 60])),
    st.tuples(st.just("restart")),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(inputs, min_size=10, max_size=60), st.sampled_from([0, 30, 200]))
def test_any_interleaving_gives_what_the_definition_gives(steps: list[tuple[Any, ...]], grace: float) -> None:
    now = 0.0
    definition, log = Definition(grace), Log()
    join = log.restored(grace)
    for number, (kind, *value) in enumerate(steps):
        now += 0.5
        attempt = str(number)
        step, expected = Step(), []
        match kind:
            case "manifest":
                key, count, failed = value
                failed = failed and count == 0
                step = join.manifest(manifest(count, *key, failed=failed), at(now))
                expected = definition.arrive(key, kind, (count, failed), now)
            case "result":
                key, index, failed = value
                step = join.result(result(index, *key, failed=failed, attempt=attempt), at(now))
                expected = definition.arrive(key, kind, (index, failed, attempt), now)
            case "tick":
                step = join.tick(at(now))
                expected = definition.tick(now)
            case "wait":
                now += value[0]
            case "restart":
                held = join.sizes()
                join = log.restored(grace)
                assert join.sizes() == held
        log.write(step)
        told = [told_by(outcome) for outcome in step.outcomes]
        assert sorted(told, key=repr) == sorted(expected, key=repr)
        for outcome in told:
            event(f"{outcome[3]}, revision {min(outcome[2], 3)}")
    known = {key for key, image in definition.images.items() if image.history}
    assert join.sizes().open + join.sizes().finished == len(known)
