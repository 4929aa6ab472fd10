"""Which partition is next: least outstanding work, ties at random, what was just sent counts."""

from __future__ import annotations

from collections import Counter

from stream_worker.balance import Outstanding


def test_twelve_objects_on_four_partitions_are_three_each() -> None:
    outstanding = Outstanding(4)
    assert Counter(outstanding.choose() for _ in range(12)) == dict.fromkeys(range(4), 3)


def test_a_partition_with_a_backlog_waits_until_the_others_have_as_much() -> None:
    outstanding = Outstanding(3)
    outstanding.measured({0: 5, 1: 0, 2: 1})
    assert Counter(outstanding.choose() for _ in range(9)) == {1: 5, 2: 4}


def test_what_was_sent_just_before_a_measurement_still_counts() -> None:
    outstanding = Outstanding(2)
    first = outstanding.choose()
    outstanding.measured({0: 0, 1: 0})
    assert outstanding.choose() == 1 - first


def test_what_was_sent_before_the_last_measurement_is_in_it() -> None:
    outstanding = Outstanding(2)
    for _ in range(10):
        outstanding.choose()
    outstanding.measured({0: 0, 1: 0})
    outstanding.measured({0: 0, 1: 0})
    assert [outstanding.of(0), outstanding.of(1)] == [0, 0]


def test_detectors_that_see_the_same_do_not_all_choose_the_same() -> None:
    assert len({Outstanding(12, seed).choose() for seed in range(20)}) > 4
