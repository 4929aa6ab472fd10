"""The guards of `make guards`: each is still where it says, or taking it out would show nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guards.guards import GUARDS, Cut, Guard

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("cut", [cut for guard in GUARDS for cut in guard.cuts], ids=lambda cut: cut.file)
def test_each_cut_has_its_one_place(cut: Cut) -> None:
    assert (ROOT / cut.file).read_text().count(cut.old) == 1


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_each_guard_names_tests_that_are_there(guard: Guard) -> None:
    named = [argument for argument in guard.tests if argument.startswith("tests/")]  # the others are pytest's
    assert named
    for test in named:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text()
        assert not name or f"def {name.partition('[')[0]}(" in text
