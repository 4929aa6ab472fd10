"""Evictions that silence explains, and those that only another process does."""

from __future__ import annotations

from stream_worker.eviction import LIMIT, Evictions

PATIENCE_S = 6.0


def test_another_process_is_told_from_evictions_in_a_row() -> None:
    evictions = Evictions(PATIENCE_S)
    said = []
    for number in range(LIMIT + 1):
        said.append(evictions.assigned(f"member-{number}", 2.0 * number))
        evictions.revoked(2.0 * number + 1.5)
    assert said == [False] * LIMIT + [True]


def test_a_silent_member_that_is_evicted_suspects_nobody() -> None:
    evictions = Evictions(PATIENCE_S)
    for number in range(10):
        assert not evictions.assigned(f"member-{number}", 8.0 * number)
        evictions.revoked(8.0 * number + 7.0)


def test_rebalances_keep_the_members_id_and_are_no_evictions() -> None:
    evictions = Evictions(PATIENCE_S)
    for number in range(10):
        assert not evictions.assigned("member", 1.0 * number)
        evictions.revoked(1.0 * number + 0.5)


def test_a_rebalance_in_between_does_not_hide_the_other_process() -> None:
    evictions = Evictions(PATIENCE_S)
    said = []
    for number in range(2 * LIMIT + 2):
        said.append(evictions.assigned(f"member-{number // 2}", 1.0 * number))
        evictions.revoked(1.0 * number + 0.5)
    assert said[-2:] == [True, True]
    assert not any(said[: 2 * LIMIT])


def test_long_work_between_evictions_begins_the_count_again() -> None:
    evictions = Evictions(PATIENCE_S)
    now = 0.0
    for number in range(3 * LIMIT):
        assert not evictions.assigned(f"member-{number}", now)
        now += 1.0 if number % LIMIT else PATIENCE_S  # the first of each three was held for long
        evictions.revoked(now)


def test_a_slow_way_back_into_the_group_is_not_time_that_the_member_was_in_it() -> None:
    """The others may take long to join again; the eviction itself came at once."""
    evictions = Evictions(PATIENCE_S, limit=1)
    assert not evictions.assigned("one", 0.0)
    evictions.revoked(1.0)
    assert evictions.assigned("two", 60.0)
