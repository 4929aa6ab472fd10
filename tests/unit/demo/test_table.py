"""The table at the end of a run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from stream_worker.demo.table import seconds, table
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
    assert f"{box.width:.2f} x {box.height:.2f} x {box.depth:.2f}" in text
    assert f"{item.geometry.volume:.3g}" in text
    assert "0.95" in text
    assert "600 ms" in text
    assert "not_an_image: not a whole JPEG" in " ".join(text.replace("│", " ").split())
    assert "no outcome" in text
    assert item.geometry.unit in text


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    made = Synthetic(tmp_path)
    made.failed("\x1b[2J[red]x\x07\r\n", "not_an_image", "\x1b]0;title\x07")
    text = printed(made)
    assert "[red]x" in text
    assert not {"\x1b", "\x07", "\r"} & set(text)


def test_durations_for_people() -> None:
    assert [seconds(value) for value in (None, 0.0123, 2.345, 321.0)] == ["", "12 ms", "2.3 s", "321 s"]
