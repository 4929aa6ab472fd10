"""The table at the end of a run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from stream_worker import events
from stream_worker.demo.table import faults, seconds, table
from tests.unit.demo.synthetic import Synthetic


def printed(made: Synthetic, width: int = 140) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table(made.record))
    return capture.get()


def test_images_objects_sizes_and_times(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("room", 1, objects=2)
    made.room("empty", 2, objects=0)
    made.failed("broken.jpg", "not_an_image", "not a whole JPEG")
    made.record.photos["lost"] = tmp_path / "lost.jpg"
    text = printed(made)
    item = made.record.completed["room"].objects[0]
    assert item.geometry is not None
    box = item.geometry.oriented_box
    assert f"{box.width:.2f}x{box.height:.2f}x{box.depth:.2f}" in text
    assert f"{item.geometry.volume:.2g}" in text
    assert "0.95" in text
    assert "0.60" in text
    assert faults(made.record) == ["broken.jpg: not_an_image: not a whole JPEG"]
    assert "no outcome" in text
    assert item.geometry.unit in text


def test_it_fits_eighty_columns(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("room-1-wide.jpg", 1, objects=2)
    wide, narrow = printed(made), printed(made, 80)
    assert len(narrow.splitlines()) <= len(wide.splitlines()) + 1, "only the caption may wrap"


def test_an_object_without_a_result_says_why(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.room("room", 1, objects=2)
    done = made.record.completed["room"]
    why = events.Failure(code="model_timeout", message="no answer in 120 s")
    bad = {"status": "failed", "reason": why, "geometry": None, "ply": None}
    made.record.completed["room"] = done.model_copy(
        update={"status": "partial", "objects": [done.objects[0].model_copy(update=bad), *done.objects[1:]]}
    )
    text = printed(made)
    assert "partial" in text
    assert "model_timeout" in text
    (line,) = faults(made.record)
    assert line.endswith("model_timeout: no answer in 120 s")


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.failed("\x1b[2J[red]x\x07\r\n", "not_an_image", "\x1b]0;title\x07")
    text = printed(made) + "".join(faults(made.record))
    assert "[red]x" in text
    assert not {"\x1b", "\x07", "\r"} & set(text)


def test_durations_for_people() -> None:
    assert [seconds(value) for value in (None, 0.0123, 2.345, 321.0)] == ["", "12 ms", "2.3 s", "321 s"]
