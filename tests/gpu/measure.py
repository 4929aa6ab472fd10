"""Measures SAM 3D Objects on this GPU, and writes what came of it as JSON: `python -m tests.gpu.measure OUT`.

`python -m tests.gpu.results OUT` makes the page of it. Each row is a process of its own, the reference first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

UPSTREAM = {"exact_savings": False, "compile": False}
DEFAULTS = {"stage1_steps": 25, "stage2_steps": 25, "mesh": True}
ROWS: dict[str, dict[str, Any]] = {
    "upstream": {"options": UPSTREAM, "args": ["--upstream-ply", "--objects", "3"]},
    "ours": {"options": {}, "args": ["--objects", "10", "--kill"], "voxels": [20_000, 5_000, 10_000]},
    "upstream defaults": {"options": UPSTREAM | DEFAULTS, "args": ["--upstream-ply", "--objects", "2"]},
    "step cache": {"options": {"step_cache": 1}, "args": ["--objects", "4"]},
    "all formats": {"options": {"mesh": True}, "args": ["--objects", "4"]},
    "4 children": {"options": {}, "children": 4},
    "2 children": {"options": {}, "children": 2},
    "upstream compiled": {"options": UPSTREAM | {"compile": True}, "args": ["--objects", "3"]},
}
NOTE = re.compile(r"(stage \d: exact savings[^=]*?|runs uncompiled.*?)(?='?\s+model=|'?$)")
"""What the child said of itself, in a line of the host's log."""
SECONDS = 15
"""That several children work beside each other for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--within", type=float, default=3600, help="seconds for everything; what is left out is said")
    args = parser.parse_args()
    began = time.monotonic()
    found: dict[str, Any] = {"machine": machine(), "rows": {}}
    for name in args.rows:
        left = args.within - (time.monotonic() - began)
        print(f"{name}: {left:.0f} s left", flush=True)
        row = ROWS[name]
        found["rows"][name] = run(row, left) if left > 20 else {"not measured": "the time was over"}
        args.out.write_text(json.dumps(found, indent=1))


def machine() -> dict[str, str]:
    import torch

    return {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "cores": str(os.cpu_count()),
        "date": time.strftime("%Y-%m-%d"),
    }


def run(row: dict[str, Any], within: float) -> dict[str, Any]:
    voxels = [str(count) for count in row.get("voxels", [20_000])]
    command = ["--options", json.dumps(row["options"]), "--voxels", *voxels, *row.get("args", [])]
    if "children" not in row:
        return said([start(command)], within)[0]
    with tempfile.TemporaryDirectory() as place:
        command += ["--start-at", place, "--seconds", str(SECONDS)]
        children = [start(command) for _ in range(row["children"])]
        deadline = time.monotonic() + within - SECONDS
        while len(list(Path(place).glob("ready-*"))) < len(children) and time.monotonic() < deadline:
            if any(child.poll() for child in children):
                for child in children:
                    child.kill()
                break
            time.sleep(0.1)
        (Path(place) / "go").touch()
        return {"children": said(children, within)}


def start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.one", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def said(children: Sequence[subprocess.Popen[str]], within: float) -> list[dict[str, Any]]:
    """The lines of each child, or why there are none."""
    found = []
    for child in children:
        try:
            out, err = child.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            found.append({"not measured": "the time was over"})
            continue
        if child.returncode:
            found.append({"not measured": err.strip().splitlines()[-1][:300] if err.strip() else "it failed"})
            print(err[-1500:], flush=True)
            continue
        lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"')]
        objects = [line for line in lines if "voxels" in line]
        said = [line for line in out.splitlines() if "exact savings deviate" in line or "uncompiled" in line]
        notes = [NOTE.search(line) for line in said]
        killed = [line["killed"] for line in lines if "killed" in line]
        found.append({**lines[0], "objects": objects, "notes": [note[0] for note in notes if note], "killed": killed})
    return found


if __name__ == "__main__":
    main()
