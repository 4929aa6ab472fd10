"""What is installed is what was pinned: every lock has hashes, and every way to install asks for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
LOCKS = ("requirements.lock", "ops/bootstrap.lock", "ops/audit.lock")


def recipe(target: str) -> str:
    found = re.search(rf"^{re.escape(target)}:[^\n]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None, f"make has no target {target}"
    return found[1]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes(lock: str) -> None:
    pins = re.split(r"\n(?=\S)", (ROOT / lock).read_text(encoding="utf-8").strip())
    assert pins
    for pin in pins:
        assert re.match(r"[a-z0-9.-]+==\S+", pin), pin
        assert "--hash=sha256:" in pin, pin
    assert "://" not in "".join(pins), "no index's name, no URL"


@pytest.mark.parametrize(
    "line", [line for line in MAKEFILE.splitlines() if "pip install" in line or "pip sync" in line]
)
def test_what_is_installed_is_asked_for_its_hashes(line: str) -> None:
    assert "--require-hashes" in line or "--no-deps --no-build-isolation -e ." in line


def test_the_targets_look_at_the_lock_that_is_installed() -> None:
    assert "requirements.lock" in recipe("sbom")
    audit = recipe("audit-dependencies")
    assert "--require-hashes" in audit
    assert "-r requirements.lock" in audit
    for target in ("sbom", "audit-dependencies"):
        assert re.search(rf"^\.PHONY:.*\b{target}\b", MAKEFILE, re.MULTILINE)
