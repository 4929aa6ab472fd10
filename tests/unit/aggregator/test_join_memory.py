"""The join with little memory: what it refuses, what it forgets early, and what that must never cost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from stream_worker.aggregator.appointments import Appointments
from stream_worker.aggregator.image import IMAGE_BYTES
from stream_worker.aggregator.join import Join, Step
from stream_worker.aggregator.memory import State
from stream_worker.events import JoinFloorEvent

from .examples import at, manifest, result

GRACE = timedelta(seconds=50)
FINISHED = 4 * IMAGE_BYTES
"""Finished images take a quarter: as many bytes as `allowed` has thousands of images' constants."""


def forgotten(step: Step) -> list[str]:
    return [change.image_id for change in step.changes if change.object_id is None and change.event is None]


def done(join: Join, image_id: str, deadline: float = 100) -> Step:
    """A photo without objects: finished at once."""
    return join.manifest(manifest(0, image_id, deadline=deadline), at(3))


def fed_until_full(join: Join, state: State, feed: Callable[[str], object]) -> int:
    """How many images it took."""
    for number in range(200):
        if join.memory.full(state):
            return number
        feed(f"photo-{number}")
    raise AssertionError(f"never full of images {state}")


class TestFull:
    def test_a_flood_of_images_does_not_keep_results_out(self) -> None:
        join = Join(GRACE, 100_000)
        number = fed_until_full(join, "awaiting_results", lambda name: join.manifest(manifest(2, name), at(3)))
        assert number < 20
        assert not join.memory.full("awaiting_manifest")
        for image in range(number):
            outcomes = [o for index in (0, 1) for o in join.result(result(index, f"photo-{image}"), at(4)).outcomes]
            assert [outcome.status for outcome in outcomes] == ["complete"]
        assert not join.memory.full("awaiting_results")

    def test_results_to_come_have_their_room_already(self) -> None:
        """Every image with all of its results but one: the manifests alone would have let in four times as many."""
        join = Join(GRACE, 200_000)
        number = fed_until_full(join, "awaiting_results", lambda name: join.manifest(manifest(10, name), at(3)))
        for image in range(number):
            for index in range(9):
                join.result(result(index, f"photo-{image}"), at(4))
        share = join.memory.share("awaiting_results")
        assert share / 2 < join.memory.bytes["awaiting_results"] < share * 1.2

    def test_results_without_manifests_do_not_keep_manifests_out(self) -> None:
        join = Join(GRACE, 50_000)
        number = fed_until_full(join, "awaiting_manifest", lambda name: join.result(result(0, name), at(3)))
        assert not join.memory.full("awaiting_results")
        for image in range(number):
            assert join.manifest(manifest(1, f"photo-{image}"), at(4)).outcomes
        assert not join.memory.full("awaiting_manifest")

    def test_full_until_well_below_the_share(self) -> None:
        join = Join(GRACE, 100_000)
        fed_until_full(join, "awaiting_results", lambda name: join.manifest(manifest(1, name), at(3)))
        join.result(result(0, "photo-0"), at(4))
        assert not join.memory.over("awaiting_results")
        assert join.memory.full("awaiting_results")  # it would be paused and resumed at every image
        for number in (1, 2, 3):
            join.result(result(0, f"photo-{number}"), at(4))
        assert not join.memory.full("awaiting_results")

    def test_full_for_both_ends_with_the_deadlines(self) -> None:
        join = Join(GRACE, 10_000)
        join.manifest(manifest(3), at(3))
        join.result(result(0, "other"), at(3))
        join.result(result(1, "other"), at(3))
        assert join.memory.full("awaiting_results")
        assert join.memory.full("awaiting_manifest")
        assert {outcome.status for outcome in join.tick(at(100)).outcomes} == {"partial", "failed"}
        assert not join.memory.full("awaiting_results")
        assert join.manifest(manifest(2, "other"), at(101)).outcomes[0].revision == 2
        assert not join.memory.full("awaiting_manifest")


class TestForgottenEarly:
    def test_those_go_first_whose_grace_ends_first(self) -> None:
        join = Join(GRACE, 3 * FINISHED)
        for image_id, deadline in [("a", 120.0), ("b", 110.0), ("c", 130.0)]:
            assert not forgotten(done(join, image_id, deadline))
        assert forgotten(done(join, "d", 140)) == ["b"]
        assert forgotten(done(join, "e", 150)) == ["a"]
        assert join.memory.bytes["finished"] <= join.memory.share("finished")

    def test_a_repeated_result_before_the_deadline_makes_no_second_first_outcome(self) -> None:
        join = Join(GRACE, FINISHED)
        join.manifest(manifest(1), at(3))
        assert join.result(result(0), at(4)).outcomes
        step = done(join, "next", 101)
        assert forgotten(step) == ["photo"]
        assert step.floor == JoinFloorEvent(deadline_at=at(100))
        assert not join.result(result(0), at(5)).outcomes
        assert not join.tick(at(100)).outcomes

    def test_a_late_result_makes_no_second_first_outcome(self) -> None:
        join = Join(GRACE, FINISHED)
        join.manifest(manifest(1), at(3))
        step = join.tick(at(100))
        assert [outcome.status for outcome in step.outcomes] == ["partial"]
        assert forgotten(step) == ["photo"]  # with its manifest, it was too large to be kept
        assert not join.result(result(0), at(101)).outcomes
        assert not join.tick(at(102)).outcomes

    def test_the_floor_is_known_to_the_next_owner(self) -> None:
        join = Join(GRACE, FINISHED)
        done(join, "photo")
        floor = done(join, "next", 101).floor
        assert floor is not None
        again = Join(GRACE, FINISHED)
        again.take(floor)
        again.taken()
        again.result(result(0), at(5))
        assert not again.tick(at(100)).outcomes

    def test_what_is_above_the_floor_still_fails_without_a_manifest(self) -> None:
        join = Join(GRACE, FINISHED)
        done(join, "photo")
        assert done(join, "next", 101).floor
        join.result(result(0, "new", deadline=102), at(5))
        assert [outcome.status for outcome in join.tick(at(102)).outcomes] == ["failed"]

    def test_what_is_below_the_floor_still_completes_with_its_manifest(self) -> None:
        join = Join(GRACE, 3 * FINISHED)
        for number in range(4):
            done(join, f"photo-{number}")
        join.result(result(0, "to come"), at(5))
        assert join.manifest(manifest(1, "to come"), at(6)).outcomes[0].status == "complete"

    def test_an_image_that_failed_without_its_manifest_is_not_forgotten_before_it(self) -> None:
        join = Join(GRACE, FINISHED)
        join.result(result(0), at(3))
        assert [outcome.status for outcome in join.tick(at(100)).outcomes] == ["failed"]
        for number in range(5):
            done(join, f"photo-{number}")
        [outcome] = join.manifest(manifest(1), at(101)).outcomes
        assert (outcome.status, outcome.revision) == ("complete", 2)

    def test_strays_go_rather_than_refuse_other_results(self) -> None:
        join = Join(GRACE, 10_000)
        for number in range(20):
            join.result(result(0, f"photo-{number}"), at(400))
        assert not join.memory.full("awaiting_manifest")
        assert join.memory.bytes["finished"] <= join.memory.share("finished")


class TestAppointments:
    def test_a_deadline_in_a_week_does_not_hold_on_to_an_image_that_is_gone(self) -> None:
        queue = Appointments()
        for number in range(10_000):
            queue.set((f"photo-{number}", "live"), at(10**6))
            queue.cancel((f"photo-{number}", "live"))
        assert len(queue) < 100

    def test_only_the_last_one_that_was_made_counts(self) -> None:
        queue, key = Appointments(), ("photo", "live")
        queue.set(key, at(1))
        queue.set(key, at(3))
        queue.set(key, at(2))
        assert queue.due(at(1.5)) is None
        assert queue.due(at(2)) == key
        assert queue.due(at(4)) is None
