"""What the service is measured against: wrong here, every ratio is."""

from __future__ import annotations

import statistics

import pytest

from tests.benchmarks.makespan import SCENARIOS, Scenario, hashed
from tests.benchmarks.schedules import Photo, by_count, detected, list_schedule, log_normal


def at_once(*objects_s: float, image_s: float = 0.0) -> list[Photo]:
    """One photo with these objects."""
    return [Photo(0.0, image_s, objects_s)]


def test_photos_wait_for_the_detector_that_is_free_first() -> None:
    photos = [Photo(0.0, 2.0, ()), Photo(0.0, 1.0, ()), Photo(0.5, 1.0, ()), Photo(9.0, 1.0, ())]
    assert detected(photos, 2) == [2.0, 1.0, 2.0, 10.0]
    assert detected(photos, 1) == [2.0, 3.0, 4.0, 10.0]


def test_a_photo_without_objects_is_complete_when_it_was_looked_at() -> None:
    assert list_schedule([Photo(1.0, 0.5, ())], 1, 1) == by_count([Photo(1.0, 0.5, ())], 1, 1) == [1.5]


def test_the_next_object_goes_to_the_gpu_that_is_free_first() -> None:
    assert list_schedule(at_once(5.0, 1.0, 1.0, 1.0), 1, 2) == [5.0]
    assert list_schedule(at_once(1.0, 1.0, 2.0), 1, 2) == [3.0]


def test_who_counts_puts_a_short_object_behind_a_long_one() -> None:
    assert by_count(at_once(5.0, 1.0, 1.0, 1.0), 1, 2) == [6.0]


def test_who_counts_knows_what_is_finished_when_a_photo_comes_later() -> None:
    photos = [Photo(0.0, 0.0, (5.0, 1.0)), Photo(2.0, 0.0, (1.0,))]
    assert by_count(photos, 2, 2) == [5.0, 3.0]


def test_a_gpu_does_not_begin_before_the_object_is_known() -> None:
    assert list_schedule([Photo(3.0, 0.5, (1.0, 1.0))], 1, 2) == [4.5]


def test_the_first_photo_that_is_known_goes_first_and_keeps_its_place_in_the_answer() -> None:
    photos = [Photo(0.0, 2.0, (1.0,)), Photo(0.0, 1.0, (1.5,))]
    assert list_schedule(photos, 2, 1) == [3.5, 2.5]


IDEAL_S = (0.8, 0.8, 0.8, 2.2, 5.7, 9.2, 22.0)
"""Of the makespan benchmark's scenarios on four GPUs: by hand, as the guide's table has most of them, times ten."""


@pytest.mark.parametrize(("scenario", "ideal_s"), list(zip(SCENARIOS, IDEAL_S, strict=True)), ids=str)
def test_the_scenarios_take_what_they_must(scenario: Scenario, ideal_s: float) -> None:
    for schedules in (list_schedule, by_count):
        assert max(schedules(scenario.photos, 4, 4)) == pytest.approx(ideal_s)


def test_hashing_is_never_ahead_of_the_ideal_and_is_behind_it_where_keys_meet() -> None:
    runs = [
        hashed(scenario, 4, f"run-{number}") / ideal_s
        for scenario, ideal_s in zip(SCENARIOS, IDEAL_S, strict=True)
        for number in range(20)
    ]
    assert min(runs) >= 0.999
    assert max(runs) > 1.5


def test_times_have_the_mean_and_the_tail_that_was_asked_for_and_come_again_with_the_seed() -> None:
    times = log_normal(400, 2.0, 0.5, seed=1)
    assert statistics.mean(times) == pytest.approx(2.0, abs=0.002)
    assert 0.4 < statistics.stdev(times) / 2.0 < 0.7  # sqrt(exp(sigma ** 2) - 1) = 0.53
    assert times == log_normal(400, 2.0, 0.5, seed=1)
    assert times != log_normal(400, 2.0, 0.5, seed=2)
    assert log_normal(400, 4.0, 0.5, seed=1) == pytest.approx([2 * one for one in times], abs=0.002)
