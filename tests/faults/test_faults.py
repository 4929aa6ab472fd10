"""The short profile: all faults together on a few hundred images, and the three verifiers of the long run.

SEED=n repeats a seed, as does the command that a failure prints.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.faults import harness
from tests.faults.faults import KILL, KILL_MODEL, OF_NODES, ZOMBIE
from tests.faults.profiles import SHORT
from tests.faults.verdict import judged

SEED = int(os.environ.get("SEED") or 20261124)


@pytest.mark.timeout(600)
async def test_all_faults_at_once_cost_time_and_nothing_else() -> None:
    folder = Path(tempfile.mkdtemp(prefix="stream-worker-faults-"))  # pytest's own would not last
    run = await harness.run(SEED, SHORT, folder)
    verdict = judged(run)
    repeat = f"seed {SEED}, logs in {folder / 'logs'}, to repeat: {harness.command(SEED, SHORT)}"
    assert not verdict.broken, f"{repeat}\n" + "\n".join(verdict.broken)
    landed = {hit.kind for hit in run.hits}
    assert landed >= {KILL, KILL_MODEL, ZOMBIE}, f"too few kinds of faults landed: {landed}; {repeat}"
    assert landed & OF_NODES, f"no fault of the broker landed: {landed}; {repeat}"
    shutil.rmtree(folder)
