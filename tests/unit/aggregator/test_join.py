"""The join, one behaviour a test. The time is seconds after the photos were published; their deadline is 100."""

from __future__ import annotations

from datetime import timedelta

import pytest

from stream_worker.aggregator.image import MAX_WAIT
from stream_worker.aggregator.join import EARLY_RESULTS, Change, Join, Sizes, Step
from stream_worker.errors import FatalError, Reason
from stream_worker.events import CompletedImageEvent, JoinStateEvent, object_id

from .examples import at, manifest, result

GRACE = timedelta(seconds=50)
PLENTY = 2**30
"""Bytes; what happens with fewer is in test_join_memory.py."""


@pytest.fixture
def join() -> Join:
    return Join(GRACE, PLENTY)


def only(step: Step) -> CompletedImageEvent:
    [outcome] = step.outcomes
    return outcome


def statuses(outcome: CompletedImageEvent) -> list[str]:
    return [found.status for found in outcome.objects]


class TestOutcomes:
    def test_complete_with_the_last_result(self, join: Join) -> None:
        assert not join.manifest(manifest(2, metadata={"order": 7}), at(3)).outcomes
        assert not join.result(result(1), at(6)).outcomes
        outcome = only(join.result(result(0), at(9)))
        assert (outcome.status, outcome.revision, outcome.reason) == ("complete", 1, None)
        assert [found.index for found in outcome.objects] == [0, 1]
        assert statuses(outcome) == ["reconstructed", "reconstructed"]
        assert all(found.ply and found.geometry and found.model for found in outcome.objects)
        assert outcome.metadata == {"order": 7}
        assert outcome.completed_at == at(9)

    def test_complete_with_the_manifest_when_results_came_first(self, join: Join) -> None:
        assert not join.result(result(0), at(1)).outcomes
        assert not join.result(result(1), at(2)).outcomes
        assert only(join.manifest(manifest(2), at(3))).status == "complete"

    def test_complete_at_once_without_objects(self, join: Join) -> None:
        outcome = only(join.manifest(manifest(0), at(3)))
        assert (outcome.status, outcome.objects) == ("complete", [])

    def test_failed_at_once_with_the_reason_of_the_manifest(self, join: Join) -> None:
        outcome = only(join.manifest(manifest(0, failed=True), at(3)))
        assert outcome.status == "failed"
        assert outcome.reason is not None
        assert outcome.reason.code == Reason.FETCH_FAILED

    def test_partial_when_an_object_failed(self, join: Join) -> None:
        join.manifest(manifest(2), at(3))
        join.result(result(0, failed=True), at(4))
        outcome = only(join.result(result(1), at(5)))
        assert (outcome.status, statuses(outcome)) == ("partial", ["failed", "reconstructed"])
        reason = outcome.objects[0].reason
        assert reason is not None
        assert reason.code == Reason.EMPTY_MASK

    def test_label_and_place_come_from_the_manifest(self, join: Join) -> None:
        join.result(result(0), at(1))
        outcome = only(join.manifest(manifest(1, label="armchair"), at(2)))
        assert outcome.objects[0].label == "armchair"

    def test_times(self, join: Join) -> None:
        join.manifest(manifest(2), at(3))
        join.result(result(0), at(4))
        assert only(join.result(result(1), at(9))).times == {
            "total_s": 9.0,
            "detected_s": 2.0,
            "detector_fetch_s": 0.5,
            "detector_infer_s": 0.25,
            "reconstructor_infer_s": 3.0,
        }

    def test_time_is_never_negative_when_the_publishers_clock_is_ahead(self, join: Join) -> None:
        assert only(join.manifest(manifest(0), at(-60))).times["total_s"] == 0

    def test_runs_of_an_image_are_apart(self, join: Join) -> None:
        join.manifest(manifest(1), at(3))
        join.manifest(manifest(1, run="again"), at(3))
        assert only(join.result(result(0, run="again"), at(4))).run == "again"
        assert only(join.result(result(0), at(5))).run == "live"


class TestDeadline:
    def test_partial_with_the_missing_named(self, join: Join) -> None:
        join.manifest(manifest(3), at(3))
        join.result(result(1), at(4))
        assert not join.tick(at(99.9)).outcomes
        outcome = only(join.tick(at(100)))
        assert (outcome.status, statuses(outcome)) == ("partial", ["missing", "reconstructed", "missing"])
        assert outcome.objects[0].reason is not None
        assert outcome.objects[0].reason.code == Reason.DEADLINE
        assert not join.tick(at(101)).outcomes

    def test_failed_without_a_manifest(self, join: Join) -> None:
        join.result(result(0), at(3))
        outcome = only(join.tick(at(100)))
        assert (outcome.status, outcome.revision, outcome.objects) == ("failed", 1, [])
        assert outcome.reason is not None
        assert outcome.reason.code == Reason.DEADLINE

    def test_late_manifest_gives_the_next_revision(self, join: Join) -> None:
        join.result(result(0), at(3))
        join.tick(at(100))
        assert not join.result(result(1), at(101)).outcomes  # still no manifest: still the same outcome
        outcome = only(join.manifest(manifest(3), at(102)))
        assert (outcome.status, outcome.revision) == ("partial", 2)
        assert statuses(outcome) == ["reconstructed", "reconstructed", "missing"]

    def test_late_manifest_that_failed_gives_its_reason(self, join: Join) -> None:
        join.result(result(0), at(3))
        join.tick(at(100))
        outcome = only(join.manifest(manifest(0, failed=True), at(102)))
        assert (outcome.status, outcome.revision) == ("failed", 2)
        assert outcome.reason is not None
        assert outcome.reason.code == Reason.FETCH_FAILED

    def test_late_results_give_revisions_until_complete(self, join: Join) -> None:
        join.manifest(manifest(2), at(3))
        join.tick(at(100))
        second = only(join.result(result(1), at(101)))
        third = only(join.result(result(0), at(102)))
        assert [(o.status, o.revision) for o in (second, third)] == [("partial", 2), ("complete", 3)]

    def test_result_before_the_clock_is_looked_at_still_counts(self, join: Join) -> None:
        join.manifest(manifest(1), at(3))
        assert only(join.result(result(0), at(200))).status == "complete"

    def test_absurd_deadline_is_cut(self, join: Join) -> None:
        join.manifest(manifest(1, deadline=10**9), at(0))
        assert not join.tick(at(0) + MAX_WAIT - timedelta(seconds=1)).outcomes
        assert only(join.tick(at(0) + MAX_WAIT)).status == "partial"

    def test_a_tick_does_no_more_than_it_is_allowed(self, join: Join) -> None:
        for number in range(5):
            join.manifest(manifest(1, f"photo-{number}"), at(3))
        assert [len(join.tick(at(100), limit=2).outcomes) for _ in range(4)] == [2, 2, 1, 0]


class TestRepeats:
    def test_second_result_is_no_news(self, join: Join) -> None:
        join.manifest(manifest(2), at(3))
        join.result(result(0, attempt="first"), at(4))
        assert join.result(result(0, attempt="second"), at(5)) == Step()
        assert join.result(result(0, failed=True), at(6)) == Step()
        outcome = only(join.result(result(1), at(7)))
        assert outcome.objects[0].model is not None
        assert outcome.objects[0].model.version == "first"

    def test_success_takes_the_place_of_a_failure(self, join: Join) -> None:
        join.manifest(manifest(1), at(3))
        assert only(join.result(result(0, failed=True), at(4))).status == "partial"
        assert join.result(result(0, failed=True, attempt="2"), at(5)) == Step()
        better = only(join.result(result(0), at(6)))
        assert (better.status, better.revision) == ("complete", 2)

    def test_second_manifest_is_no_news_even_if_it_differs(self, join: Join) -> None:
        join.manifest(manifest(1), at(3))
        assert join.manifest(manifest(1), at(4)) == Step()
        assert join.manifest(manifest(3, label="lamp"), at(4)) == Step()
        assert join.manifest(manifest(0, failed=True), at(4)) == Step()
        outcome = only(join.result(result(0), at(5)))
        assert [found.label for found in outcome.objects] == ["sofa"]

    def test_nothing_after_complete_or_failed_is_news(self, join: Join) -> None:
        join.manifest(manifest(0), at(3))
        join.manifest(manifest(0, "bad", failed=True), at(3))
        for image_id in ("photo", "bad"):
            assert join.manifest(manifest(2, image_id), at(4)) == Step()
            assert join.result(result(0, image_id), at(4)) == Step()

    def test_results_that_the_manifest_does_not_name_are_dropped(self, join: Join) -> None:
        join.result(result(7), at(1))
        step = join.manifest(manifest(1), at(2))
        assert Change("photo", "live", object_id("photo", "live", 7), None) in step.changes
        assert join.result(result(8), at(3)) == Step()
        assert [found.index for found in only(join.result(result(0), at(4))).objects] == [0]

    def test_object_named_twice_is_one_object(self, join: Join) -> None:
        twice = manifest(1).model_copy(update={"objects": manifest(1).objects * 2})
        join.manifest(twice, at(3))
        assert len(only(join.result(result(0), at(4))).objects) == 1


class TestMemory:
    def test_complete_image_keeps_no_bodies(self, join: Join) -> None:
        join.manifest(manifest(2), at(3))
        join.result(result(0), at(4))
        assert join.sizes() == Sizes(open=1, finished=0, results=1)
        step = join.result(result(1), at(5))
        assert join.sizes() == Sizes(open=0, finished=1, results=0)
        written, image = step.changes
        assert written == Change("photo", "live", object_id("photo", "live", 0), None)
        assert image.event is not None
        assert image.event.image is not None
        assert image.event.image.final
        assert image.event.image.manifest is None

    def test_forgotten_when_the_grace_is_over(self, join: Join) -> None:
        join.manifest(manifest(0), at(3))
        assert not join.tick(at(149.9)).changes  # 50 after the deadline, though it was finished long before
        assert join.tick(at(150)).changes == [Change("photo", "live", None, None)]
        assert join.sizes() == Sizes(0, 0, 0)

    def test_partial_image_is_forgotten_with_its_results(self, join: Join) -> None:
        join.manifest(manifest(2), at(3))
        join.result(result(0), at(4))
        join.tick(at(100))
        join.result(result(1, failed=True), at(120))  # a revision: the grace begins anew
        assert not join.tick(at(169)).changes
        gone = join.tick(at(170)).changes
        assert [change.event for change in gone] == [None] * 3
        assert gone[-1].object_id is None

    def test_grace_may_be_nothing(self) -> None:
        join = Join(timedelta(0), PLENTY)
        join.manifest(manifest(1), at(3))
        assert only(join.tick(at(100))).status == "partial"
        assert join.sizes() == Sizes(0, 0, 0)

    def test_result_after_the_image_was_forgotten_makes_no_outcome(self, join: Join) -> None:
        join.manifest(manifest(1), at(3))
        join.tick(at(100))
        join.tick(at(150))
        assert not join.result(result(0), at(400)).outcomes
        assert not join.tick(at(449)).changes
        dropped = join.tick(at(450))
        assert not dropped.outcomes
        assert [change.event for change in dropped.changes] == [None, None]
        assert join.sizes() == Sizes(0, 0, 0)

    def test_very_late_result_waits_for_its_manifest_after_an_outage_of_ours(self, join: Join) -> None:
        join.result(result(0), at(400))
        assert only(join.manifest(manifest(1), at(401))).status == "complete"

    def test_very_late_manifest_is_never_dropped(self, join: Join) -> None:
        join.result(result(0), at(400))
        join.manifest(manifest(2), at(401))
        assert only(join.tick(at(402))).status == "partial"

    def test_results_without_a_manifest_are_bounded(self, join: Join) -> None:
        for index in range(EARLY_RESULTS + 5):
            join.result(result(index), at(1))
        assert join.sizes().results == EARLY_RESULTS

    def test_no_appointment_outlives_its_image(self, join: Join) -> None:
        join.manifest(manifest(2), at(3))
        join.tick(at(100))
        join.result(result(0), at(110))
        join.result(result(1), at(120))
        assert len(join._spare) == 3
        join.tick(at(170))
        assert join.sizes() == Sizes(0, 0, 0)
        assert len(join._due) == len(join._spare) == 0

    def test_since_when_the_image_is_open_whose_deadline_comes_first(self, join: Join) -> None:
        assert join.open_since() is None
        join.manifest(manifest(1, "one"), at(3))
        join.result(result(0, "two"), at(5))
        assert join.open_since() == at(3)
        join.result(result(0, "one"), at(7))
        assert join.open_since() == at(5)
        join.tick(at(100))  # it has failed for want of a manifest, which may still come
        assert join.open_since() is None
        join.manifest(manifest(1, "three"), at(110))
        assert join.open_since() == at(110)


class TestRestoring:
    def restored(self, *steps: Step) -> Join:
        pieces: dict[tuple[str, str, str | None], JoinStateEvent] = {}
        for change in (change for step in steps for change in step.changes):
            key = change.image_id, change.run, change.object_id
            if change.event is None:
                pieces.pop(key, None)
            else:
                pieces[key] = change.event
        join = Join(GRACE, PLENTY)
        for piece in reversed(pieces.values()):
            join.take(piece)
        join.taken()
        return join

    def test_open_image_goes_on(self, join: Join) -> None:
        again = self.restored(
            join.result(result(5), at(1)), join.manifest(manifest(3), at(3)), join.result(result(1), at(4))
        )
        assert again.sizes() == join.sizes() == Sizes(open=1, finished=0, results=1)
        again.result(result(0, failed=True), at(5))
        outcome = only(again.tick(at(100)))
        assert (outcome.revision, statuses(outcome)) == (1, ["failed", "reconstructed", "missing"])

    def test_finished_image_is_still_known(self, join: Join) -> None:
        again = self.restored(join.manifest(manifest(0), at(3)))
        assert again.manifest(manifest(0), at(4)) == Step()
        assert again.tick(at(150)).changes

    def test_revisions_go_on(self, join: Join) -> None:
        again = self.restored(join.manifest(manifest(2), at(3)), join.tick(at(100)), join.result(result(1), at(101)))
        assert only(again.result(result(0), at(102))).revision == 3

    def test_result_without_its_image_is_fatal(self, join: Join) -> None:
        join.manifest(manifest(2), at(3))
        with pytest.raises(FatalError, match="photo"):
            self.restored(join.result(result(0), at(4)))

    def test_image_without_anything_is_fatal(self, join: Join) -> None:
        step = join.result(result(0), at(4))
        with pytest.raises(FatalError, match="photo"):
            self.restored(Step(changes=[change for change in step.changes if change.object_id is None]))
