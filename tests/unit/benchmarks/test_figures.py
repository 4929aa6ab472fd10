"""Medians, percentiles and paces; and what benchmarks make of what they have seen."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.busy import gaps, share
from tests.benchmarks.figures import Seen, Spread, percentile, rate
from tests.benchmarks.gpu_idle import Span
from tests.benchmarks.growth import restored_s
from tests.benchmarks.latency import added, at_random, evenly
from tests.benchmarks.schedules import Photo


def test_a_spread_is_the_median_with_the_least_and_the_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread(1234.5, 1.0, 2.0).shown(1) == "1,234.5 (1.0 to 2.0)"


@pytest.mark.parametrize(("percent", "value"), [(0, 1.0), (50, 3.0), (90, 4.6), (99, 4.96), (100, 5.0)])
def test_a_percentile_lies_between_its_neighbours(percent: float, value: float) -> None:
    assert percentile([5.0, 1.0, 3.0, 2.0, 4.0], percent) == pytest.approx(value)
    assert percentile([7.0], percent) == 7.0


def test_a_pace_is_counted_from_move_to_move_and_not_by_looks() -> None:
    looks = [Seen(0, 0), Seen(1, 0), Seen(2, 20), Seen(3, 20), Seen(4, 60), Seen(5, 60), Seen(6, 90), Seen(9, 100)]
    assert rate(looks, 100) == pytest.approx((90 - 20) / (6 - 2))  # neither the start nor the late last one
    assert rate(looks, 100, 0.1, 0.6) == pytest.approx((60 - 20) / (4 - 2))  # it was at 60 at the moment 4 already


def test_a_pace_of_a_part_is_that_parts_alone() -> None:
    looks = [Seen(moment, done) for moment, done in enumerate([0, 10, 20, 40, 60, 80, 81, 82, 83, 100])]
    assert rate(looks, 100, 0.1, 0.2) == pytest.approx(10)
    assert rate(looks, 100, 0.2, 0.8) == pytest.approx(20)


def test_too_few_moves_are_no_pace() -> None:
    with pytest.raises(ValueError, match="too few moves"):
        rate([Seen(0, 0), Seen(1, 100)], 100)


def test_the_models_share_leaves_out_what_fills_the_pipe() -> None:
    spans = [Span(0, 1), Span(5, 6), Span(10, 11), Span(11.25, 12.25), Span(12.5, 13.5)]
    assert gaps(spans) == [0.25, 0.25]
    assert share(spans) == pytest.approx(2 / 2.5)


def test_what_is_added_is_over_the_models_and_over_the_schedule_of_the_moments_that_were() -> None:
    photos = [Photo(0.0, 0.1, (1.0,)), Photo(0.0, 0.1, (1.0,))]
    seen = [(0.3, 1.5), (0.2, 1.35)]  # the second was published first: the other one waits for detector and GPU
    found = added(photos, seen, 1, 1)
    assert found["model"] == pytest.approx([0.1, 0.05])
    assert found["ideal"] == pytest.approx([1.5 - 2.3, 1.35 - 1.3])


def test_photos_come_evenly_or_at_random_with_the_same_pace() -> None:
    assert evenly(3, 2.0) == [0.0, 0.5, 1.0]
    moments = at_random(2000, 4.0, seed=1)
    assert moments == sorted(moments)
    assert moments[-1] == pytest.approx(500, rel=0.1)
    assert moments != at_random(2000, 4.0, seed=2)


def line(event: str, second: float, lane: int) -> str:
    return json.dumps({"event": event, "lane": lane, "timestamp": f"2026-11-25T12:00:{second:09.6f}Z"})


def test_lanes_are_restored_when_the_last_of_them_is() -> None:
    log = ["Traceback: no JSON", line("restoring", 1.0, 1), line("restoring", 1.5, 0), line("restored", 3.0, 0)]
    assert restored_s(log, 2) is None
    assert restored_s([*log, line("restored", 2.5, 1)], 2) == pytest.approx(2.0)
