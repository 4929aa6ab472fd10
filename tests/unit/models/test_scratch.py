"""Private folders: they end with their owner, also when it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stream_worker.models.scratch import ScratchFolder

ROOT = Path(__file__).parents[3]


def test_a_folder_is_private_and_is_removed(tmp_path: Path) -> None:
    folder = ScratchFolder("test", str(tmp_path))
    assert Path(folder.path).stat().st_mode & 0o777 == 0o700
    Path(folder.file("inside")).write_text("x")
    folder.remove()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_next_sweeps_what_a_killed_one_left_and_spares_the_living(tmp_path: Path) -> None:
    script = (
        "import os, sys, signal; from stream_worker.models.scratch import ScratchFolder; "
        f"folder = ScratchFolder('test', {str(tmp_path)!r}); open(folder.file('x'), 'w').close(); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False)
    (left,) = tmp_path.iterdir()
    other_kind = ScratchFolder("other", str(tmp_path))
    living = ScratchFolder("test", str(tmp_path))
    assert not left.exists()
    newest = ScratchFolder("test", str(tmp_path))
    assert {str(path) for path in tmp_path.iterdir()} == {living.path, newest.path, other_kind.path}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / ".owner").touch()
    os.symlink(victim, tmp_path / "stream-worker-test-link")
    ScratchFolder("test", str(tmp_path))
    assert (victim / ".owner").exists()
