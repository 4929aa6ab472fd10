"""`stream-worker demo` as people run it: a process of its own, real Kafka, real models, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from stream_worker.contract import decode
from stream_worker.demo.photos import ROOMS, Room, render_rooms
from stream_worker.events import CompletedImageEvent
from stream_worker.geometry import gaussians

LIMIT_S = 240
MARK = "DEMO_TEST_MARK"
"""A variable that every process of a demo inherits."""


class Demo:
    """How a demo is started; `left` are the processes that it should have stopped, but did not."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.out = folder / "demo-out"
        self._folder = folder
        self._mark = uuid.uuid4().hex
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("STREAM_WORKER_KAFKA")
        } | {MARK: self._mark, "PYTHONUNBUFFERED": "1", **variables}

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "stream_worker", "demo", "--out", str(self.out), *arguments]
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            with process:
                try:
                    yield process
                finally:
                    process.kill()
        finally:
            for left in self.left():
                left.kill()

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output."""
        with self.started(*arguments) as process:
            output, _ = process.communicate(timeout=LIMIT_S)
            print(output)
            assert self.left() == []
            return process.returncode, output

    def left(self) -> list[psutil.Process]:
        """Living processes of this demo."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def completed(self) -> list[CompletedImageEvent]:
        lines = (self.out / "completed.jsonl").read_bytes().splitlines()
        return [decode(CompletedImageEvent, line) for line in lines]


@pytest.mark.timeout(LIMIT_S + 60)
def test_photos_in_3d_objects_out(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    code, output = demo.run()
    assert code == 0
    events = demo.completed()
    assert [event.image_id for event in events] == [room.name for room in ROOMS]
    assert {event.status for event in events} == {"complete"}
    turned = next(event for event in events if event.image_id == "room-4-turned.jpg")
    assert turned.image is not None
    assert turned.image.height > turned.image.width, "its EXIF orientation was applied"
    objects = [item for event in events for item in event.objects]
    assert len(objects) >= len(ROOMS), "rooms have furniture"
    assert all(item.geometry and item.geometry.volume > 0 for item in objects)
    plys = list((demo.out / "ply").iterdir())
    assert len(plys) == len(objects)
    for path in plys:
        gaussians.check(gaussians.from_ply(path.read_bytes()))
    report = (demo.out / "report.html").read_text()
    assert report.count('class="view"') == len(objects)
    assert len(report) < 15_000_000
    assert f"{len(ROOMS)} of {len(ROOMS)} photos complete" in output
    assert "Completed images" in output
    assert not (demo.out / ".data").exists()
    assert {path.stem for path in (demo.out / "logs").iterdir()} >= {
        *("detector-0", "reconstructor-0", "reconstructor-1", "aggregator-0"),
    }


@pytest.mark.timeout(LIMIT_S + 60)
def test_a_broken_photo_fails_alone_and_the_exit_code_says_so(tmp_path: Path, kafka: str, prefix: str) -> None:
    photos = tmp_path / "photos"
    render_rooms(photos, (Room("good.jpg", 3, 640, 480), Room("empty.jpg", 4, 640, 480, objects=0)))
    (photos / "broken.jpg").write_bytes((photos / "good.jpg").read_bytes()[:2000])
    demo = Demo(tmp_path, STREAM_WORKER_KAFKA__BOOTSTRAP_SERVERS=kafka, STREAM_WORKER_KAFKA__PREFIX=prefix)
    code, output = demo.run("--images", str(photos))
    assert code == 1
    outcomes = {event.image_id: event for event in demo.completed()}
    assert {image_id: event.status for image_id, event in outcomes.items()} == {
        "good.jpg": "complete",
        "empty.jpg": "complete",
        "broken.jpg": "failed",
    }
    row = next(line for line in output.splitlines() if line.startswith("broken.jpg "))
    assert "failed" in row
    reason = outcomes["broken.jpg"].reason
    assert reason is not None
    assert f"broken.jpg: {reason.code}" in output
    assert "2 of 3 photos complete" in output
    assert reason.code in (demo.out / "report.html").read_text()


@pytest.mark.timeout(LIMIT_S)
def test_sigterm_stops_all_that_was_started(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    with demo.started() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "publishing" in line:
                break
        assert len(demo.left()) > 5, "Kafka, four workers and their models"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LIMIT_S)
        assert process.returncode == 128 + signal.SIGTERM
        assert demo.left() == []
    assert not (demo.out / ".data").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--images", "nowhere"), "nowhere can't be read"), (("--images", "."), "holds no .jpg")],
)
def test_a_mistake_is_one_line_before_anything_starts(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    code, output = Demo(tmp_path).run(*arguments)
    assert code == 2
    assert told in output
    assert len(output.splitlines()) == 1
    assert "Traceback" not in output
