"""SAM 3D Objects' child under another Python and another NumPy than the service's, as upstream's environment is."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stream_worker import inference
from stream_worker.errors import Reason
from stream_worker.geometry import masks
from stream_worker.models.results import reconstructed
from stream_worker.models.sam3d.result import measured
from stream_worker.reconstructor import MODELS
from stream_worker.settings import SAM3D, Reconstructor, Sam3d
from tests.unit.models.test_sam3d import FAKES, HEIGHT, WIDTH, written

pytest.importorskip("torch", reason="the stand-in is made of torch's tensors: install the extra `detector`")

VERSIONS = ("3.12", "3.10", "3.13")
NUMPY = "1.26.4"
"""Of the other major version than the service's own."""


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter of another version, with torch, what upstream reads its configuration with, and the stand-in.

    The environment is made once, beside the service's own.
    """
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("no uv beside this interpreter: the environment was not made by `make setup`")
    found = another(uv)
    if found is None:
        pytest.skip(f"no Python {' or '.join(VERSIONS)} on this machine")
    version, interpreter = found
    place = Path(sys.prefix) / f"second-{version}"
    made = place / "bin" / "python"
    if not (place / "ready").exists():
        shutil.rmtree(place, ignore_errors=True)
        same = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "omegaconf", "hydra-core")]
        run(uv, "venv", "--quiet", "--python", interpreter, str(place))
        run(uv, "pip", "install", "--quiet", "--python", str(made), f"numpy=={NUMPY}", *same)
        (place / "ready").touch()
    site = run(made, "-c", "import site; print(site.getsitepackages()[0])").strip()
    Path(site, "sam3d_objects_stand_in.pth").write_text(f"{FAKES}\n")
    return str(made)


def another(uv: Path) -> tuple[str, str] | None:
    """Version and path of an interpreter that is not ours, of those that are installed."""
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    # pyenv's shims fail for a version that is not switched on: look where it keeps them.
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        if version == ours:
            continue
        for interpreter in sorted(kept.glob(f"{version}.*/bin/python{version}")):
            return version, str(interpreter)
        asked = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", version], capture_output=True, text=True, timeout=60
        )
        if asked.returncode == 0:
            return version, asked.stdout.strip()
    return None


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=840)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.timeout(900)
async def test_an_object_through_a_child_of_another_python(python: str, tmp_path: Path) -> None:
    (tmp_path / "pixels").write_bytes(bytes(WIDTH * HEIGHT * 3))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:90, 100:150] = True
    task = {"pixels": str(tmp_path / "pixels"), "width": WIDTH, "height": HEIGHT}
    section = Reconstructor(model=SAM3D, device="cpu", threads=1, python=python, load_timeout_s=300, task_timeout_s=60)
    options = written(tmp_path / "hf") | {"device": "cpu"}
    async with inference.host("sam3d", MODELS[SAM3D], section, Reason.RECONSTRUCT_FAILED, options=options) as host:
        answer = await host.infer(task, masks.packed(masks.encode(mask)))
        info = host.info
    assert info["exact_savings"] is True
    assert info["python"] != sys.version.split()[0]
    assert info["numpy"] == NUMPY != np.__version__
    geometry = reconstructed(measured(answer.header, answer.payload, Sam3d()), answer.payload)
    assert geometry.gaussians == 40_000
