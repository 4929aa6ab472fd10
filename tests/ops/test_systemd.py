"""The units by systemd's own check, and by what the service promises; then all of them at work under a real systemd."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from ops.rehearsals.host import missing
from ops.rehearsals.systemd import prepare, rehearse
from stream_worker.errors import Exit
from stream_worker.settings import load
from stream_worker.up import READY_S
from tests.ops.promises import (
    OPS,
    drain_s,
    program,
    require_command,
    require_no_secrets,
    require_secrets_by_file,
    seconds,
    settings,
    size,
    without,
)
from tests.servers.s3 import S3Server

FOLDER = OPS / "systemd"
WORKERS = {"detector": "detect", "reconstructor": "reconstruct", "aggregator": "aggregate"}
PROGRAM = "/opt/stream-worker/bin/stream-worker"
CONFIG = ["--config", "/etc/stream-worker/stream-worker.toml"]
INSTANCE = "0"

Unit = dict[str, list[str]]


def unit(name: str, instance: str = INSTANCE) -> Unit:
    """A unit's settings, of all sections, in the order they stand; %i is the instance."""
    found: Unit = {}
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        key, mark, value = line.partition("=")
        if mark and not line.startswith(("#", "[")):
            found.setdefault(key, []).append(value.replace("%i", instance).replace("%p", name.partition("@")[0]))
    return found


def units() -> dict[str, Unit]:
    return {file.name: unit(file.name) for file in FOLDER.glob("*.service")}


def variables(one: Unit) -> dict[str, str]:
    return dict(line.split("=", 1) for line in one.get("Environment", []))


def verified(folder: Path) -> str:
    """What systemd says against the units of a folder."""
    verify = [program("systemd-analyze", "Debian: systemd"), "verify", "--man=no", "--recursive-errors=no"]
    files = sorted(str(file) for file in folder.iterdir() if file.suffix in {".service", ".target"})
    done = subprocess.run([*verify, *files], capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if str(folder) in line or "stream-worker" in line]
    # Nothing is installed where the tests run.
    return "\n".join(line for line in said if f"Command {PROGRAM} is not executable" not in line)


def test_systemd_finds_nothing_wrong() -> None:
    assert verified(FOLDER) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Type=notify", "Type=notified"),
        ("KillMode=mixed", "KillMode=main"),
        ("TimeoutStopSec=45", "TimeoutStopSec=soon"),
        ("NoNewPrivileges=yes", "NoNewPrivilege=yes"),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@services"),
        ("MemoryMax=16G", "MemoryMax=16GiB of it"),
    ],
)
def test_a_broken_unit_is_found(tmp_path: Path, old: str, new: str) -> None:
    name = "stream-worker-detector@.service"
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (tmp_path / name).write_text(text.replace(old, new), encoding="utf-8")
    assert verified(tmp_path) != ""


def test_units_run_real_commands_with_real_settings() -> None:
    assert set(units()) == {*(f"stream-worker-{name}@.service" for name in WORKERS), "stream-worker-topics.service"}
    for name, one in units().items():
        (line,) = one["ExecStart"]
        path, *arguments = line.split()
        assert path == PROGRAM
        assert arguments[:2] == CONFIG
        command = require_command(arguments[2:])
        group = name.removeprefix("stream-worker-").partition("@")[0].removesuffix(".service")
        assert command == WORKERS.get(group, "topics create")
        require_secrets_by_file(variables(one))
        if group in WORKERS:
            assert arguments[2:] == [command, "--name", f"{group}-{INSTANCE}"]
            assert settings(variables(one)).metrics.port
            assert one["EnvironmentFile"] == [f"-/etc/stream-worker/stream-worker-{group}-{INSTANCE}.env"]


def test_metrics_ports_of_a_host_are_all_different() -> None:
    files = [f"stream-worker-{group}@.service" for group in WORKERS]
    ports = [settings(variables(unit(file, f"{gpu}"))).metrics.port for file in files for gpu in range(10)]
    assert len(set(ports)) == len(ports)


def test_workers_say_when_they_are_ready_and_have_time_to_load_and_to_drain() -> None:
    for group in WORKERS:
        one = unit(f"stream-worker-{group}@.service")
        chosen = settings(variables(one))
        assert one["Type"] == ["notify"]
        assert one["NotifyAccess"] == ["main"]
        loading = {"detector": chosen.detector.load_timeout_s, "reconstructor": chosen.reconstructor.load_timeout_s}
        joining = max(READY_S, chosen.kafka.rebalance_timeout_ms / 1000)
        assert seconds(one["TimeoutStartSec"][0]) >= loading.get(group, 0) + joining
        assert seconds(one["TimeoutStopSec"][0]) >= drain_s(chosen)
        # The models must not be told to end before the worker has drained.
        assert one["KillMode"] == ["mixed"]


def test_units_are_restarted_unless_somebody_must_mend_something() -> None:
    for name, one in units().items():
        assert one["Restart"] == ["on-failure" if "topics" in name else "always"]
        assert seconds(one["RestartSec"][0]) >= 1
        assert one["StartLimitIntervalSec"] == ["0"]
        for_good = {int(code) for code in one["RestartPreventExitStatus"][0].split()}
        models = "detector" in name or "reconstructor" in name
        assert for_good == ({Exit.USAGE, Exit.WEIGHTS} if models else {Exit.USAGE})


def test_units_have_limits_and_few_rights() -> None:
    for name, one in units().items():
        models = "detector" in name or "reconstructor" in name
        for key, value in {
            "User": "stream-worker",
            "NoNewPrivileges": "yes",
            "CapabilityBoundingSet": "",
            "ProtectSystem": "strict",
            "ProtectHome": "yes",
            "PrivateTmp": "yes",
            "RestrictNamespaces": "yes",
            "RestrictSUIDSGID": "yes",
            "SystemCallFilter": "@system-service",
            "UMask": "0077",
            "LimitCORE": "0",
        }.items():
            assert one[key] == [value], f"{name}: {key}"
        assert {"MemoryMax", "TasksMax"} <= set(one), name
        assert one.get("DeviceAllow") == (["char-nvidia* rw"] if models else None), name
        assert one.get("DevicePolicy" if models else "PrivateDevices") == ["closed" if models else "yes"], name
        assert ("LoadCredential" in one) == models, name
        if models:
            (credential,) = one["LoadCredential"]
            assert variables(one)["AWS_SHARED_CREDENTIALS_FILE"] == f"%d/{credential.partition(':')[0]}"
    aggregator = unit("stream-worker-aggregator@.service")
    assert size(aggregator["MemoryMax"][0]) >= 2 * settings({}).aggregator.memory_mb * 2**20


def test_all_of_it_starts_and_stops_with_the_target() -> None:
    for name, one in units().items():
        assert one["WantedBy"] == ["stream-worker.target"], name
        assert one["PartOf"] == ["stream-worker.target"], name
    assert unit("stream-worker.target")["WantedBy"] == ["multi-user.target"]


def test_the_example_of_settings_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (FOLDER / "stream-worker.toml.example").read_text(encoding="utf-8")
    file = tmp_path / "stream-worker.toml"
    for said in (text, re.sub(r"(?m)^# (?=\[detector|weights)", "", text).replace('"..."', f'"{"0" * 64}"')):
        file.write_text(said, encoding="utf-8")
        assert load(file).kafka.replication_factor == tomllib.loads(said)["kafka"]["replication_factor"]


def test_no_secret_stands_in_the_files() -> None:
    for file in FOLDER.iterdir():
        require_no_secrets(file.name, file.read_text(encoding="utf-8"))


@pytest.mark.timeout(900)
async def test_the_units_at_work_under_a_real_systemd(kafka: str, prefix: str, s3: S3Server, bucket: str) -> None:
    """A photo, a kill, a stop in the middle of work, a start again, a wrong setting: ops/rehearsals/systemd.py."""
    why = missing()
    if why is not None:
        without(why)
    said: list[str] = []
    await rehearse(await prepare(kafka, prefix, s3, bucket), s3, said.append)
    assert any("all guarantees hold" in line for line in said), said
