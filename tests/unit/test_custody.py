"""What the metadata of a committed offset tells of those who owned the partition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.custody import CRASHES, Custody

REACH = 12
COUNTS = st.integers(0, 2**40)


def died(custody: Custody, offset: int, times: int = 1) -> Custody:
    """As an owner finds it after so many owners died with it at this offset."""
    for _ in range(times):
        custody = Custody.read(custody.taken_over(offset).written())
    return custody


@given(st.builds(Custody, st.booleans(), COUNTS, COUNTS, COUNTS))
def test_what_is_written_is_read(custody: Custody) -> None:
    assert Custody.read(custody.written()) == custody


@pytest.mark.parametrize(
    "metadata",
    [
        *(None, "", "x", "7", "[]", "null", '{"open": true}', '{"open":1,"crashes":"many","since":0,"alone":0}'),
        *('{"open":true,"crashes":-1,"since":0,"alone":0}', '{"open":true,"crashes":null,"since":0,"alone":0}'),
    ],
)
def test_metadata_of_another_writer_says_nothing(metadata: str | None) -> None:
    assert Custody.read(metadata) == Custody()


def test_one_death_is_no_suspicion() -> None:
    custody = died(Custody().taken_over(5), 5)
    assert custody.crashes == 1
    assert not custody.suspicious


def test_who_gives_up_in_order_has_not_died() -> None:
    custody = Custody()
    for offset in range(5, 10):
        custody = custody.taken_over(offset).closed()
    assert custody == Custody()


def test_deaths_in_a_row_without_getting_far_are_suspicious() -> None:
    custody = died(Custody().taken_over(5), 5).moved(5 + REACH - 1, REACH)
    custody = died(custody, 5 + REACH - 1)
    assert custody.suspicious
    assert custody.since == 5


def test_each_further_death_leaves_an_eighth_in_hand() -> None:
    hands = [Custody(crashes=crashes).together(200) for crashes in range(6)]
    assert hands == [200, 200, 25, 3, 1, 1]
    assert [Custody(crashes=crashes).together(12) for crashes in range(4)] == [12, 12, 1, 1]


@given(COUNTS, st.integers(1, 10_000))
def test_however_many_deaths_one_is_in_hand_at_least(crashes: int, limit: int) -> None:
    assert 1 <= Custody(crashes=crashes).together(limit) <= limit


def test_an_orderly_owner_in_between_hides_nothing() -> None:
    custody = died(Custody().taken_over(5), 5).closed().taken_over(5)
    assert died(custody, 5).suspicious


def test_once_past_the_reach_of_the_first_death_all_is_forgotten() -> None:
    custody = died(Custody().taken_over(5), 5, CRASHES + 1).begun()
    assert custody.suspicious
    assert custody.moved(5 + REACH, REACH) == Custody(is_open=True)


def test_attempts_alone_belong_to_the_record_at_the_offset() -> None:
    custody = died(Custody().taken_over(5), 5, CRASHES).begun().begun()
    assert died(custody, 5).alone == 2
    assert custody.moved(6, REACH).alone == 0
    assert custody.undone().alone == 1
    assert Custody().undone().alone == 0
