"""Who needs what: a process that talks to Kafka never imports torch."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

HEAVY = ("torch", "ultralytics", "cv2", "spconv", "plotly", "PIL")


@pytest.mark.parametrize(
    "module",
    [
        "stream_worker.cli",
        "stream_worker.publish",
        "stream_worker.results",
        "stream_worker.aggregator.service",
        "stream_worker.stage",
        "stream_worker.detector",
        "stream_worker.reconstructor",
        "stream_worker.supervisor",
    ],
)
def test_a_process_that_talks_to_kafka_imports_no_model(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["stream_worker.models.child", "stream_worker.models.protocol"])
def test_the_childs_side_needs_the_standard_library_alone(module: str) -> None:
    """It may run under another interpreter, with nothing installed but its model's packages."""
    code = (
        f"import sys, {module}; from pathlib import Path; "
        "print([n for n, m in sys.modules.items() if 'site-packages' in (getattr(m, '__file__', '') or '')])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_sam_3ds_side_needs_numpy_besides() -> None:
    """Upstream's interpreter has NumPy, and nothing of the service's own packages."""
    code = (
        "import sys, stream_worker.models.sam3d.adapter; from pathlib import Path; "
        "files = [getattr(m, '__file__', '') or '' for m in sys.modules.values()]; "
        "print({Path(f.split('site-packages/')[1]).parts[0] for f in files if 'site-packages/' in f})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ast.literal_eval(done.stdout) - {"_distutils_hack"} == {"numpy"}
