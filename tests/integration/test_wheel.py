"""The built wheel is whole: schemas, weights and templates are in it, and it works from elsewhere."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(installed)
    assert "stream_worker/schemas/image.schema.json" in names
    assert "stream_worker/schemas/asyncapi.yaml" in names
    assert "stream_worker/schemas/examples/image.json" in names
    assert "stream_worker/models/weights/rooms-seg.pt" in names
    assert "stream_worker/demo/report.html.j2" in names
    assert "stream_worker/py.typed" in names
    assert not [name for name in names if name.startswith("tests/")]
    code = (
        "import stream_worker, sys; assert stream_worker.__file__.startswith(sys.argv[1]), stream_worker.__file__; "
        "from stream_worker.contract import schema_folder, decode; from stream_worker.events import ImageEvent; "
        'print(schema_folder()); decode(ImageEvent, b\'{"image_id": "a", "url": "u"}\')'
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(installed)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert str(installed) in done.stdout
