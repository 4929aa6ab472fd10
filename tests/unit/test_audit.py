"""The books of an audit: what the join writes is in order, and each way of breaking a guarantee is found."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_worker.aggregator import outcome
from stream_worker.aggregator.join import Join
from stream_worker.audit.digests import DigestTable, digest_of
from stream_worker.audit.findings import EXAMPLES, MEANING, Findings, Kind
from stream_worker.audit.ledger import Ledger, Scope
from stream_worker.errors import UserError
from stream_worker.events import (
    CompletedImageEvent,
    DetectionEvent,
    Event,
    ImageEvent,
    ReconstructionEvent,
)
from stream_worker.window import Window, window
from tests.unit.aggregator.examples import START, at, manifest, result

CUT_S = 100_000.0
GRACE = timedelta(seconds=1000)


def ms(seconds: float) -> int:
    return int(at(seconds).timestamp() * 1000)


def ledger(**scope: object) -> Ledger:
    chosen = {"cut_ms": ms(CUT_S), "settle_ms": 60_000, "grace_ms": 1_000_000, "deadline_s": 100.0, **scope}
    return Ledger(Scope(**chosen), Findings())  # type: ignore[arg-type]


def publish(books: Ledger, image_id: str = "photo", seconds: float = 0, **fields: object) -> None:
    event = ImageEvent(image_id=image_id, url="https://x.test/a.jpg", **fields)  # type: ignore[arg-type]
    books.accepted(event, ms(seconds), 0, books.images.events)


def write(books: Ledger, event: Event, seconds: float = 10) -> None:
    books.let_go(ms(seconds))
    if isinstance(event, DetectionEvent):
        books.manifest(event, ms(seconds))
    elif isinstance(event, ReconstructionEvent):
        books.result(event, ms(seconds))
    elif isinstance(event, CompletedImageEvent):
        books.outcome(event, ms(seconds))


def completed(
    count: int, *results: ReconstructionEvent, status: outcome.Status = "complete", revision: int = 1
) -> CompletedImageEvent:
    """The outcome of `manifest(count)` with these results."""
    return outcome.joined(status, revision, manifest(count), {one.object_id: one for one in results}, at(20))


def found(*events: Event, **scope: object) -> Counter[Kind]:
    """What an audit finds of one photo that was published once."""
    books = ledger(**scope)
    publish(books)
    for event in events:
        write(books, event)
    books.close()
    return books.findings.counts


WHOLE = (manifest(2), result(0), result(1), completed(2, result(0), result(1)))


def test_what_is_whole_is_in_order_and_let_go_at_once() -> None:
    books = ledger()
    publish(books)
    for event in WHOLE:
        write(books, event)
    assert books.held == 0
    books.close()
    assert books.findings.counts == Counter()
    assert (books.images.accepted, books.images.complete, books.images.terminal) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_topics_does_not_matter(seed: int) -> None:
    events = list(WHOLE)
    random.Random(seed).shuffle(events)
    assert found(*events) == Counter()


LATE = completed(2, result(0), status="partial")
BETTER = completed(2, result(0), result(1), revision=2)
FAILED_RESULT = result(1, failed=True)
NO_REASON = completed(2, result(0), FAILED_RESULT, status="partial")
BROKEN: dict[str, tuple[Kind, tuple[Event, ...]]] = {
    "no outcome": (Kind.MISSING, WHOLE[:3]),
    "no manifest and no outcome": (Kind.MISSING, ()),
    "the same outcome twice": (Kind.DUPLICATED, (*WHOLE, WHOLE[3])),
    "an older revision again": (Kind.DUPLICATED, (*WHOLE[:3], LATE, BETTER, LATE)),
    "a revision after a final outcome": (Kind.DUPLICATED, (*WHOLE, BETTER)),
    "no first revision": (Kind.REVISION_GAP, (*WHOLE[:3], BETTER)),
    "an outcome and no manifest": (Kind.NO_MANIFEST, WHOLE[3:]),
    "results and never a manifest": (
        Kind.NO_MANIFEST,
        (result(0), outcome.without_manifest(1, "photo", "live", START, at(20))),
    ),
    "an object too few": (Kind.OBJECTS_DIFFER, (manifest(3), *WHOLE[1:])),
    "an object too many": (Kind.OBJECTS_DIFFER, (manifest(1), result(0), WHOLE[3])),
    "an older revision with other objects": (
        Kind.OBJECTS_DIFFER,
        (*WHOLE[:3], completed(1, status="partial"), BETTER),
    ),
    "complete, and the manifest failed": (Kind.OBJECTS_DIFFER, (manifest(0, failed=True), completed(0))),
    "failed, and the manifest did not": (
        Kind.OBJECTS_DIFFER,
        (manifest(2), outcome.joined("failed", 1, manifest(0, failed=True), {}, at(20))),
    ),
    "failed for want of a manifest that was there": (
        Kind.OBJECTS_DIFFER,
        (manifest(2), result(0), outcome.without_manifest(1, "photo", "live", START, at(20))),
    ),
    "reconstructed without a result": (Kind.STATUS_DIFFERS, (manifest(2), result(0), WHOLE[3])),
    "reconstructed, and the result failed": (Kind.STATUS_DIFFERS, (manifest(2), result(0), FAILED_RESULT, WHOLE[3])),
    "missing, and the result was there": (Kind.STATUS_DIFFERS, (*WHOLE[:3], LATE)),
    "failed, and a better result was there": (Kind.STATUS_DIFFERS, (*WHOLE[:3], NO_REASON)),
    "failed without a reason": (
        Kind.UNEXPLAINED,
        (
            manifest(0, failed=True),
            outcome.joined("failed", 1, manifest(0, failed=True), {}, at(20)).model_copy(update={"reason": None}),
        ),
    ),
    "complete with a missing object": (
        Kind.UNEXPLAINED,
        (manifest(2), result(0), completed(2, result(0))),
    ),
    "a missing object without a reason": (
        Kind.UNEXPLAINED,
        (
            manifest(1),
            completed(1, status="partial").model_copy(
                update={"objects": [completed(1).objects[0].model_copy(update={"reason": None})]}
            ),
        ),
    ),
    "two manifests of one event": (Kind.REPEATED, (manifest(2), *WHOLE)),
    "two results of one object": (Kind.REPEATED, (*WHOLE[:2], result(0), *WHOLE[2:])),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_guarantee_is_found(case: str) -> None:
    kind, events = BROKEN[case]
    assert found(*events) == Counter({kind: 1})


def test_an_image_that_nobody_published_is_found_once() -> None:
    books = ledger()
    for event in WHOLE:
        write(books, event)
    books.close()
    assert books.findings.counts == Counter({Kind.UNASKED: 1})
    assert books.images.accepted == 0


@pytest.mark.parametrize(
    "events",
    [
        (manifest(0), completed(0)),
        (manifest(0, failed=True), outcome.joined("failed", 1, manifest(0, failed=True), {}, at(20))),
        (manifest(2), result(0), LATE),
        (manifest(2), result(0), LATE, result(1), BETTER),
        (manifest(2), result(0), FAILED_RESULT, NO_REASON),
        (*WHOLE[:3], outcome.unwritable(WHOLE[3], "too large")),
    ],
)
def test_what_the_service_may_do_is_no_violation(events: tuple[Event, ...]) -> None:
    assert found(*events) == Counter()


def test_before_its_deadline_an_image_is_in_flight() -> None:
    books = ledger(cut_ms=ms(120))
    publish(books, "old", 0)
    publish(books, "just over", 0, deadline_s=90)
    publish(books, "over", 0, deadline_s=30)
    books.close()
    assert (books.images.in_flight, books.findings.counts) == (2, Counter({Kind.MISSING: 1}))
    [example] = books.findings.examples[Kind.MISSING]
    assert (example.place, "90 s ago" in example.detail) == (("images", 0, 2), True)


def test_where_all_is_drained_nothing_is_in_flight() -> None:
    books = ledger(cut_ms=ms(1), deadline_s=604_800, drained=True)
    publish(books)
    books.close()
    assert books.findings.counts == Counter({Kind.MISSING: 1})


def test_a_repeated_publish_is_one_acceptance_and_may_be_processed_again() -> None:
    books = ledger()
    publish(books)
    publish(books)
    for event in (*WHOLE, *WHOLE[:3]):
        write(books, event)
    books.close()
    assert (books.images.events, books.images.accepted, books.images.terminal) == (2, 1, 1)
    assert books.findings.counts == Counter()


def test_a_repeated_publish_moves_no_deadline() -> None:
    books = ledger(cut_ms=ms(300))
    publish(books)
    publish(books, seconds=290)
    books.close()
    assert books.findings.counts == Counter({Kind.MISSING: 1})


def test_runs_are_images_of_their_own() -> None:
    books = ledger()
    publish(books)
    publish(books, run="again")
    for event in WHOLE:
        write(books, event)
    books.close()
    assert (books.images.accepted, books.images.terminal) == (2, 1)
    assert books.findings.counts == Counter({Kind.MISSING: 1})


def test_a_result_that_is_too_late_or_too_new_owes_nothing() -> None:
    for seconds in (CUT_S - 30, 100 + 1000 + 5):
        books = ledger()
        publish(books)
        for event in (manifest(2), result(0), LATE):
            write(books, event)
        books.result(result(1), ms(seconds))
        books.close()
        assert books.findings.counts == Counter()


def test_a_refused_event_must_be_in_dead_letters() -> None:
    books = ledger()
    books.refused(ms(0), 3, 7)
    books.refused(ms(0), 3, 8)
    books.refused(ms(CUT_S - 10), 3, 9)
    books.dead_letter("images", "invalid_event", 3, 7)
    books.dead_letter("objects", "invalid_event", 3, 8)
    books.close()
    assert books.findings.counts == Counter({Kind.SILENTLY_REFUSED: 1})
    assert "offset 8" in books.findings.examples[Kind.SILENTLY_REFUSED][0].detail
    assert books.images.refused == 3


def test_of_a_part_only_that_part_is_judged() -> None:
    books = ledger(since_ms=ms(1000), all_images=False)
    publish(books, "photo", 1000)
    for image_id in ("earlier", "photo"):
        for event in (manifest(1, image_id), result(0, image_id)):
            write(books, event, 1010)
    assert not books.outcome(completed(1, result(0)).model_copy(update={"image_id": "earlier"}), ms(1010))
    assert books.outcome(completed(1, result(0)), ms(1010))
    books.close()
    assert books.findings.counts == Counter()
    assert (books.images.accepted, books.images.terminal, books.images.outside) == (1, 1, 3)


def test_an_image_that_was_finished_before_the_window_is_not_missing() -> None:
    books = ledger(since_ms=ms(1000), all_images=False)
    publish(books, "photo", 1000)
    write(books, completed(1, result(0)), 20)
    write(books, manifest(3), 1010)
    books.close()
    assert (books.findings.counts, books.images.terminal) == (Counter(), 1)


def test_what_retention_took_is_not_judged() -> None:
    assert found(*WHOLE[3:], all_manifests=False) == Counter()
    assert found(manifest(2), *WHOLE[3:], all_results=False) == Counter()


def test_an_image_is_let_go_when_no_result_can_change_it() -> None:
    books = ledger()
    publish(books)
    publish(books, "open")
    write(books, manifest(2, "open"))
    for event in (manifest(2), result(0), LATE):
        write(books, event)
    assert books.held == 2
    books.let_go(ms(100 + 1000 + 601))
    assert books.held == 1
    books.close()
    assert books.images.partial == 1


def test_only_a_few_of_a_kind_are_named_and_all_are_counted() -> None:
    books = ledger()
    for number in range(50):
        publish(books, f"photo-{number}")
    books.close()
    assert books.findings.counts[Kind.MISSING] == 50
    assert len(books.findings.examples[Kind.MISSING]) == EXAMPLES


def test_every_kind_says_what_it_means() -> None:
    assert set(MEANING) == set(Kind)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_the_join_makes_of_it_is_in_order(data: st.DataObject) -> None:
    """Any interleaving, with repeats, late ones and ticks, through the real join: the books find nothing."""
    count = data.draw(st.integers(0, 4))
    repeats = data.draw(st.integers(1, 2))
    failed = data.draw(st.booleans()) and data.draw(st.booleans())
    inputs: list[Event] = [manifest(count, failed=failed) for _ in range(repeats)]
    for index in range(0 if failed else count):
        for _ in range(data.draw(st.integers(0, repeats))):
            inputs.append(result(index, failed=data.draw(st.booleans())))
    inputs = data.draw(st.permutations(inputs))
    join, now, books = Join(GRACE, 2**30), 3.0, ledger()
    for _ in range(repeats):
        publish(books)
    for event in inputs:
        now += data.draw(st.sampled_from([1.0, 60.0]))
        outcomes = join.tick(at(now)).outcomes
        outcomes += (join.manifest if isinstance(event, DetectionEvent) else join.result)(event, at(now)).outcomes  # type: ignore[arg-type, operator]
        for written in [event, *outcomes]:
            write(books, written, now)
    for written in join.tick(at(now + 200)).outcomes:
        write(books, written, now + 200)
    books.close()
    assert books.findings.counts == Counter(), books.findings.examples
    assert books.images.terminal == 1


def test_a_table_of_digests_is_a_dict_in_less_room() -> None:
    table, plain = DigestTable("qB"), {}
    numbers = random.Random(5)
    for _ in range(20_000):
        digest = digest_of(str(numbers.randrange(8000)))
        values = numbers.randrange(2**40), numbers.randrange(256)
        table.put(digest, *values)
        plain[digest] = values
    assert dict(table.items()) == plain
    assert len(table) == len(plain)
    assert all(table.get(digest) == values for digest, values in plain.items())
    assert table.get(digest_of("nobody")) is None
    assert table.nbytes <= 3 * 25 * len(plain)
    assert not table.add(next(iter(plain)))


def test_parts_of_a_digest_do_not_run_together() -> None:
    assert digest_of("a", "bc") != digest_of("ab", "c")


NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("90s", NOW - timedelta(seconds=90)),
        ("2026-01-01T20:00", datetime(2026, 1, 1, 20, tzinfo=UTC)),
        ("2026-01-01T20:00:00+02:00", datetime(2026, 1, 1, 18, tzinfo=UTC)),
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_as_people_write_it(text: str, means: datetime) -> None:
    assert window(text, None, NOW).since == means


@pytest.mark.parametrize(
    ("since", "until"), [("yesterday", None), ("1h", "2h"), ("2027-01-01", None), ("999999d", None)]
)
def test_a_window_that_is_none_is_one_line(since: str, until: str | None) -> None:
    with pytest.raises(UserError, match=r"is no time|is not before"):
        window(since, until, NOW)


def test_an_image_that_a_replay_asked_for_is_judged_as_a_published_one() -> None:
    """Its manifest is read twice: first as what asks for it."""
    books = ledger()
    taken_over = manifest(2).model_copy(update={"replay_of": "before"})
    books.replayed(taken_over, 1, 7)
    for event in WHOLE:
        write(books, event)
    books.close()
    assert (books.findings.counts, books.images.accepted, books.images.complete) == (Counter(), 1, 1)
    books = ledger()
    books.replayed(taken_over, 1, 7)
    write(books, WHOLE[0])
    books.close()
    [example] = books.findings.examples[Kind.MISSING]
    assert example.place == ("detections", 1, 7)


@pytest.mark.parametrize(
    ("since", "until", "inside"), [(None, None, True), (10, None, True), (11, None, False), (None, 10, False)]
)
def test_whether_a_moment_is_in_a_window(since: int | None, until: int | None, inside: bool) -> None:
    bounds = (None if one is None else at(one) for one in (since, until))
    assert Window(*bounds).has(ms(10)) is inside
