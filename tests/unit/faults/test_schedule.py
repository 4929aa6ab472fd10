"""The schedule: what a seed repeats."""

from __future__ import annotations

from tests.faults import faults
from tests.faults.profiles import BEYOND_S, LONG, SESSION_S, TRANSACTION_S
from tests.faults.schedule import Step, schedule

SEED = 5


def test_a_seed_is_repeated_and_another_one_differs() -> None:
    assert schedule(SEED, LONG.rhythms, 600) == schedule(SEED, LONG.rhythms, 600)
    assert schedule(SEED, LONG.rhythms, 600) != schedule(SEED + 1, LONG.rhythms, 600)


def test_a_track_does_not_depend_on_the_others() -> None:
    alone = {"workers": LONG.rhythms["workers"]}
    assert schedule(SEED, alone, 600)["workers"] == schedule(SEED, LONG.rhythms, 600)["workers"]
    same = schedule(SEED, {"workers": LONG.rhythms["workers"], "others": LONG.rhythms["workers"]}, 600)
    assert same["workers"] != same["others"], "each track draws for itself"


def test_the_long_profile_has_the_rhythms_of_the_issue() -> None:
    steps = schedule(SEED, LONG.rhythms, 3600)
    assert all(5 <= step.pause_s <= 15 for step in steps["workers"])
    assert sum(step.pause_s for step in steps["workers"]) >= 3600
    assert all(step.lasts_s > max(SESSION_S, TRANSACTION_S) for step in steps["zombies"])
    assert max(SESSION_S, TRANSACTION_S) < BEYOND_S
    assert {step.kind for step in steps["nodes"]} == faults.OF_NODES
    assert {step.lasts_s for step in steps["nodes"] if step.kind == faults.NODE_STOP} == {60.0}


def test_whom_a_step_hits_depends_on_who_is_there_and_not_on_their_order() -> None:
    step = Step(1.0, "kill", 0.0, draw=0.7)
    assert step.pick(["c", "a", "b"]) == step.pick(["a", "b", "c"]) == "c"
    assert step.pick(["b", "a"]) == "b"
    assert step.pick([]) is None
