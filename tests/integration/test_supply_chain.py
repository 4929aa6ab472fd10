"""`make sbom`, as it is run: every pin of the lock is in it, with its hashes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_the_sbom_has_every_pin_with_its_hashes(tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    done = subprocess.run(
        ["make", "--silent", "sbom", f"AUDIT={tmp_path / 'audit'}", f"SBOM={file}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    sbom = json.loads(file.read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    listed = {re.sub(r"[-_.]+", "-", one["name"]).lower(): one for one in sbom["components"]}
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)(.*?)(?=^\S|\Z)", _lock(), re.MULTILINE | re.DOTALL)
    assert {name: one["version"] for name, one in listed.items()} == {name: version for name, version, _ in pins}
    for name, _, rest in pins:
        noted = {
            one["content"]
            for reference in listed[name]["externalReferences"]
            for one in reference.get("hashes", ())
            if one["alg"] == "SHA-256"
        }
        assert noted == set(re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)), name


def _lock() -> str:
    return (ROOT / "requirements.lock").read_text(encoding="utf-8")
