"""The short profile: each fault alone, and all together, on a few hundred images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults import harness

SEED = int(os.environ.get("SEED", "20261123"))


@pytest.mark.timeout(500)
async def test_workers_and_models_are_killed_all_the_time(tmp_path: Path) -> None:
    faults: list[harness.Fault] = [harness.kill_worker, harness.kill_worker, harness.kill_model]
    planned, done = await harness.run(SEED, 1200, tmp_path, faults, every_s=(1.0, 3.0), within_s=300)
    harness.require(planned, done)
    assert done.landed.count() >= 5, f"too few faults landed: {done.landed}"


@pytest.mark.timeout(500)
async def test_a_zombie_comes_back_after_its_partitions_have_gone(tmp_path: Path) -> None:
    planned, done = await harness.run(SEED, 800, tmp_path, [harness.zombie], every_s=(0.5, 1.0), within_s=300)
    harness.require(planned, done)
    assert done.landed.count("zombie") >= 1, f"no worker was stopped: {done.landed}"
