"""The folder that a demo writes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_worker.demo.folder import MARK, taken
from stream_worker.errors import UserError


def test_what_an_earlier_demo_left_is_gone_and_the_rest_stays(tmp_path: Path) -> None:
    root = tmp_path / "out"
    with taken(root) as folder:
        for path in (folder.plys, folder.logs, folder.data, folder.photos):
            path.mkdir()
            (path / "old").touch()
        folder.report.touch()
        (root / "notes.txt").touch()
    assert not folder.data.exists(), "Kafka's data goes with the run"
    with taken(root) as folder:
        assert {path.name for path in root.iterdir()} == {MARK, "photos", "notes.txt"}


def test_data_of_a_killed_demo_is_removed_by_the_next(tmp_path: Path) -> None:
    with taken(tmp_path / "out") as folder:
        pass
    (folder.data / "kafka").mkdir(parents=True)
    with taken(tmp_path / "out") as folder:
        assert not folder.data.exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ply").mkdir()
    (tmp_path / "ply" / "mine.ply").touch()
    with pytest.raises(UserError, match="no demo made it"), taken(tmp_path):
        pass
    assert (tmp_path / "ply" / "mine.ply").exists()


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with taken(tmp_path / "out"), pytest.raises(UserError, match="another demo"), taken(tmp_path / "out"):
        pass
    with taken(tmp_path / "out"):
        pass


def test_a_place_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't write"), taken(tmp_path / "file" / "out"):
        pass
