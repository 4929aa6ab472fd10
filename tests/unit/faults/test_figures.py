"""The figures of a run: lag, resumption and memory, from samples made up by hand."""

from __future__ import annotations

from tests.faults.faults import KILL, NODE_STOP, ZOMBIE, Hit
from tests.faults.figures import Resumed, drained_s, growth, lag, resumed
from tests.faults.memory import Life
from tests.faults.offsets import Sample
from tests.faults.stumbles import MODEL

A, B = ("objects", 0), ("objects", 1)
VISIBLE = {A: [0, 1, 2, 5, 6], B: [0, 4]}
"""3 and 4 of A, and 1 to 3 of B, are markers or of aborted transactions; so is all beyond the last."""


def sample(at: float, a: int, b: int, end_a: int = 9, end_b: int = 9) -> Sample:
    return Sample(at, at + 0.1, {"reconstructor": {A: a, B: b}}, {A: end_a, B: end_b})


def told(hits: list[Hit], samples: list[Sample], stumbles: list[Hit] | None = None) -> list[Resumed]:
    """`resumed`, where every sample's offsets were committed at its end."""
    commits = {
        ("reconstructor", source): [(one.ended, one.committed["reconstructor"][source]) for one in samples]
        for source in (A, B)
    }
    return resumed(hits, samples, commits, VISIBLE, stumbles or [])


def hit(at: float, target: str = "reconstructor-1", kind: str = KILL, until: float | None = None) -> Hit:
    return Hit(kind, target, at, at if until is None else until, waiting=1)


def test_markers_are_no_lag() -> None:
    assert lag(sample(0, 3, 1), VISIBLE, "reconstructor") == {A: 2, B: 1}
    assert lag(sample(0, 7, 5), VISIBLE, "reconstructor") == {A: 0, B: 0}
    assert lag(sample(0, 3, 1, end_a=6), VISIBLE, "reconstructor")[A] == 1, "what can't be read yet is no work"


def test_lag_is_gone_when_it_stays_gone() -> None:
    samples = [sample(0, 7, 5), sample(1, 3, 5), sample(2, 7, 5), sample(3, 7, 5)]
    assert drained_s(samples, VISIBLE, after=0) == 2.1
    assert drained_s(samples, VISIBLE, after=2) == 0.1
    assert drained_s(samples[:2], VISIBLE, after=0) is None
    assert drained_s([], VISIBLE, after=0) is None


def test_partitions_have_resumed_when_the_last_one_with_work_has_moved() -> None:
    samples = [sample(0, 0, 0), sample(1, 1, 0), sample(2, 1, 0), sample(5, 2, 0), sample(9, 2, 1)]
    (found,) = told([hit(0.5)], samples)
    assert (found.seconds, found.partitions, found.beside) == (8.6, 2, ())


def test_what_moved_before_the_first_look_is_not_taken_for_a_resumption() -> None:
    samples = [sample(0, 0, 5), sample(1, 1, 5), sample(4, 2, 5)]
    (found,) = told([hit(0.5)], samples)
    assert found.seconds == 3.6


def test_a_partition_without_work_does_not_count() -> None:
    samples = [sample(1, 7, 1), sample(2, 7, 5), sample(3, 7, 5)]
    (found,) = told([hit(0.5)], samples)
    assert (found.partitions, found.seconds) == (1, 1.6)
    assert told([hit(1.5)], samples) == []


def test_a_partition_that_never_moves_is_said_to_never_move() -> None:
    (found,) = told([hit(0.5)], [sample(1, 0, 5), sample(2, 0, 5)])
    assert found.seconds is None


def test_other_faults_meanwhile_are_named_and_those_of_other_groups_are_not() -> None:
    samples = [sample(1, 1, 0), sample(2, 2, 1)]
    among = [
        hit(0.5),
        hit(1.5, "reconstructor-2"),
        hit(1.5, "detector-1", ZOMBIE),
        hit(0.1, "node-2", NODE_STOP, until=0.2),
    ]
    assert told(among, samples)[0].beside == (KILL, NODE_STOP)
    long_ago = [hit(30.5), hit(0, "reconstructor-2", ZOMBIE, until=20), hit(0, "node-1", NODE_STOP, until=14)]
    assert told(long_ago, [sample(31, 1, 0), sample(32, 2, 1)])[0].beside == ()


def test_a_model_of_the_group_that_stumbles_meanwhile_is_another_fault() -> None:
    samples = [sample(1, 1, 0), sample(5, 2, 1)]
    meanwhile = [hit(2, "reconstructor-2", MODEL, until=4.5)]
    assert told([hit(0.5)], samples, meanwhile)[0].beside == (MODEL,)
    elsewhere = [hit(2, "detector-0", MODEL), hit(0, "reconstructor-2", MODEL, until=0.4), hit(6, kind=MODEL)]
    assert told([hit(0.5)], samples, elsewhere)[0].beside == ()


def test_a_process_that_ended_before_its_first_sample_is_not_judged() -> None:
    assert growth([Life("detector-1", 7, child=True)]) == []


def test_memory_is_the_last_quarter_of_a_life_against_the_second() -> None:
    at = [float(second) for second in range(0, 201, 2)]
    flat = Life("detector-0", 1, False, at, [50.0 if second < 50 else 100.0 for second in at])
    grows = Life("aggregator-0", 2, False, at, [100.0 + second for second in at])
    short = Life("detector-1", 3, True, at[:50], [100.0 + second for second in at[:50]])
    found = growth([flat, grows, short])
    assert [(one.worker, one.ratio) for one in found] == [("aggregator-0", 1.58), ("detector-0", 1.0)]
