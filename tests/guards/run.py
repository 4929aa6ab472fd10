"""`make guards`: take each guard out of a copy of the code, and see the tests that are named beside it fail.

Writes tests/guards/RESULTS.md. The run ends with exit code 1 where a guard is missed by nobody, or is not where
`guards.py` says.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.guards.guards import GUARDS, Guard

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("RESULTS.md")
COPIED = ("stream_worker", "schemas", "tests", "pyproject.toml", "README.md", "ops")
LIMIT_S = 900
TRIES = 3
"""What a missing guard lets happen does not happen every time: a test that notices may need another try."""


def without(guard: Guard, folder: Path) -> None:
    """A copy of the code in `folder`, without the guard. Raises ValueError where it is not where it should be."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for cut in guard.cuts:
        path = folder / cut.file
        text = path.read_text(encoding="utf-8")
        if text.count(cut.old) != 1:
            raise ValueError(f"{cut.file} has {text.count(cut.old)} places like {cut.old!r}")
        path.write_text(text.replace(cut.old, cut.new), encoding="utf-8")


def failed(guard: Guard) -> list[str]:
    """The named tests that fail without the guard."""
    with tempfile.TemporaryDirectory(prefix="stream-worker-guard-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        without(guard, folder)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *guard.tests]
        # Its modules come before the installed ones, in every process.
        env = {**os.environ, "PYTHONPATH": str(folder)}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    found = re.findall(r"^(?:FAILED|ERROR) (\S+?::\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1):
        raise ValueError(f"pytest could not run: {done.stdout[-500:]} {done.stderr[-500:]}")
    return found


def main() -> int:
    """Run all guards, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of guards; none: all")
    arguments = parser.parse_args()
    chosen = [guard for guard in GUARDS if not arguments.names or any(part in guard.name for part in arguments.names)]
    rows, good = [], True
    for guard in chosen:
        started = time.monotonic()
        try:
            tries, tests = 0, list[str]()
            while not tests and tries < TRIES:
                tries, tests = tries + 1, failed(guard)
        except (ValueError, subprocess.TimeoutExpired) as error:
            tests, verdict = [], f"NOT TRIED: {error}"
        else:
            verdict = "<br>".join(f"`{test}`" for test in tests) or f"**none in {tries} tries: nobody misses it**"
            verdict += f" (in try {tries})" if tests and tries > 1 else ""
        good &= bool(tests)
        print(f"{guard.name}: {verdict} ({time.monotonic() - started:.0f} s)", flush=True)
        rows.append(f"| {guard.name} | {guard.why} | {verdict} |")
    if not arguments.names:
        RESULTS.write_text(_page(rows), encoding="utf-8")
    return 0 if good else 1


def _page(rows: list[str]) -> str:
    return "\n".join(
        [
            "# Without each guard, what fails",
            "",
            f"`make guards`, {datetime.now(UTC):%Y-%m-%d}: each guard is taken out of a copy of the code as "
            "[guards.py](guards.py) says, and the tests that should notice are run. With all guards in, they pass.",
            "",
            "| guard | what it is for | tests that fail without it |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
