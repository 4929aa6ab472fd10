"""More than a hundred hostile cases through the real detector, in a network of its own.

There, every address that must not be reached has a listener: loopback, a private one, the metadata services of clouds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_worker.lifeline import tied
from tests.hostile.names import METADATA, METADATA_V6, PRIVATE

ROOT = Path(__file__).parents[2]
ADDRESSES = (f"{METADATA}/32", f"{PRIVATE}/32", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")
LEAST, GROWTH_MIB, LONGEST_S = 80, 256, 25

_SCRIPT = """
ip link set lo up
for address in {v4}; do ip addr add $address dev lo; done
ip addr add {v6}/128 dev lo
mount --bind {resolv} /etc/resolv.conf
exec {python} -m tests.hostile.stage {out}
"""

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not (shutil.which("unshare") and shutil.which("ip")), reason="no `unshare` or `ip`: no network of its own"
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    resolv, out = folder / "resolv.conf", folder / "report.json"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    script = _SCRIPT.format(v4=" ".join(ADDRESSES), v6=METADATA_V6, resolv=resolv, python=sys.executable, out=out)
    namespaces = ["--net", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    ran = subprocess.run(
        tied(["unshare", *namespaces, "sh", "-euc", script]),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=380,
        check=False,
    )
    assert out.exists(), ran.stdout[-4000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_every_case_has_its_reason(report: dict[str, Any]) -> None:
    cases = report["cases"]
    assert len(cases) >= LEAST
    assert {name: one for name, one in cases.items() if one["got"] != one["expected"]} == {}


def test_the_manifest_says_what_the_dead_letter_says(report: dict[str, Any]) -> None:
    assert {name: one for name, one in report["cases"].items() if one.get("manifest", one["got"]) != one["got"]} == {}


def test_nothing_is_connected_to_that_must_not_be(report: dict[str, Any]) -> None:
    assert report["connections"] == []


def test_no_case_costs_the_process_or_much_memory_or_time(report: dict[str, Any]) -> None:
    assert report["same_process"]
    assert report["grown_mib"] <= GROWTH_MIB
    assert max(one["seconds"] for one in report["cases"].values()) <= LONGEST_S


def test_no_secret_is_told(report: dict[str, Any]) -> None:
    assert report["leaks"] == []
