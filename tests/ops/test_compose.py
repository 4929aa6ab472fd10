"""docker-compose.yml by the library that docker compose is made of, and by what the service promises."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_worker.local_kafka import KAFKA_VERSION
from tests.ops.promises import (
    OPS,
    ROOT,
    drain_s,
    go,
    require_command,
    require_no_secrets,
    require_secrets_by_file,
    seconds,
    settings,
    size,
)

FILE = ROOT / "docker-compose.yml"
STANDING = {"kafka", "s3", "topics", "aggregator", "prometheus", "grafana"}
OURS = "stream-worker/"
LAPTOP = 16 * 2**30

Project = dict[str, Any]
Load = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Loads a Compose file as `docker compose config` does, for the profiles that are named."""
    loader = tmp_path_factory.mktemp("compose") / "load"
    go("build", "-o", str(loader), ".", folder=Path(__file__).parent / "compose")

    def load(file: Path, *profiles: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([loader, file, *profiles], capture_output=True, text=True, timeout=60, cwd=file.parent)

    return load


@pytest.fixture(scope="module")
def project(load: Load) -> Project:
    """The whole file, all profiles."""
    return loaded(load, FILE, "cpu", "gpu")


def loaded(load: Load, file: Path, *profiles: str) -> Project:
    done = load(file, *profiles)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def environment(service: Project) -> dict[str, str]:
    return {name: str(value) for name, value in (service.get("environment") or {}).items()}


@pytest.mark.parametrize(
    ("profile", "more"),
    [
        ("", set()),
        ("cpu", {"detector-cpu", "reconstructor-cpu"}),
        ("gpu", {"detector-0", "reconstructor-0"}),
    ],
)
def test_each_profile_is_right_by_the_specification(load: Load, profile: str, more: set[str]) -> None:
    assert set(loaded(load, FILE, profile)["services"]) == STANDING | more


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    restart: on-failure:5\n", "    restarts: on-failure:5\n"),
        ("  compiled: {}", "  others: {}"),
        ("  inside: {internal: true}", "  within: {internal: true}"),
        ("  grafana_password: {file:", "  another_password: {file:"),
        (
            "depends_on: {prometheus: {condition: service_healthy}}",
            "depends_on: {prometeus: {condition: service_healthy}}",
        ),
        ("depends_on: {prometheus: {condition: service_healthy}}", "depends_on: {prometheus: {condition: healthy}}"),
        ('ports: ["127.0.0.1:9090:9090"]', 'ports: ["127.0.0.1:9090:web"]'),
    ],
)
def test_a_broken_file_is_refused(load: Load, tmp_path: Path, old: str, new: str) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert text.count(old) == 1
    broken = tmp_path / FILE.name
    broken.write_text(text.replace(old, new), encoding="utf-8")
    assert load(broken, "cpu", "gpu").returncode != 0


def test_kafka_alone_needs_no_secret_and_no_other_service(project: Project) -> None:
    kafka = project["services"]["kafka"]
    assert not kafka.get("depends_on")
    assert not kafka.get("secrets")
    assert not kafka.get("profiles")
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert "KAFKA_LOG_DIRS" in kafka["environment"], "the image's default is not on the volume"
    (volume,) = kafka["volumes"]
    assert volume["target"] == kafka["environment"]["KAFKA_LOG_DIRS"]
    assert "HOST://127.0.0.1:9092" in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def test_every_service_has_limits_restarts_a_health_check_and_few_rights(project: Project) -> None:
    for name, service in project["services"].items():
        once = name == "topics"
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= set(limits), name
        assert service["restart"] == ("on-failure:5" if once else "unless-stopped"), name
        assert once or service["healthcheck"]["test"][0].startswith("CMD"), name
        assert once or {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        # Kafka's image writes its configuration at every start, and has a user of its own.
        assert service.get("read_only") or name == "kafka", name
        assert service.get("user", "0").split(":")[0] != "0" or name == "kafka", name
        assert not {"privileged", "cap_add", "pid", "ipc", "userns_mode"} & set(service), name
        assert "internal" in {key for net in service["networks"] for key in project["networks"][net]}, name


def test_nothing_is_open_to_other_machines(project: Project) -> None:
    ports = [port for service in project["services"].values() for port in service.get("ports") or []]
    assert {port["published"] for port in ports} == {"9092", "8333", "9090", "3000"}
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert "docker.sock" not in FILE.read_text(encoding="utf-8")


def test_images_are_pinned(project: Project) -> None:
    for name, service in project["services"].items():
        _, _, tag = service["image"].partition(":")
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?", tag), f"{name}: {service['image']}"


def test_our_services_run_real_commands_with_real_settings_and_time_to_drain(project: Project) -> None:
    ours = {name: one for name, one in project["services"].items() if one["image"].startswith(OURS)}
    assert set(ours) == {"topics", "aggregator"} | {
        f"{group}-{at}" for group in ("detector", "reconstructor") for at in ("cpu", "0")
    }
    for name, service in ours.items():
        chosen = settings(environment(service))
        assert chosen.kafka.bootstrap_servers == "kafka:19092"
        require_secrets_by_file(service["environment"])
        command = require_command(service["command"])
        image = service["image"].removeprefix(OURS).partition(":")[0]
        if name == "topics":
            assert (command, image) == ("topics create", "base")
            continue
        assert (command, image) == {
            "aggregator": ("aggregate", "base"),
            "detector": ("detect", "detector"),
            "reconstructor": ("reconstruct", "reconstructor"),
        }[name.partition("-")[0]]
        assert seconds(service["stop_grace_period"]) >= drain_s(chosen), name
        assert chosen.metrics.host == "0.0.0.0"
        assert f":{chosen.metrics.port}/metrics" in " ".join(service["healthcheck"]["test"])
        assert service["depends_on"]["topics"]["condition"] == "service_completed_successfully"
        assert service["depends_on"]["kafka"]["condition"] == "service_healthy"
        if name != "aggregator":
            assert service["command"] == [command, "--name", name]
            assert service["hostname"] == name
            assert service["depends_on"]["s3"]["condition"] == "service_healthy"
            assert chosen.store.access_key is None
            assert chosen.store.secret_key is None
            (secret,) = service["secrets"]
            assert secret["target"] == environment(service)["AWS_SHARED_CREDENTIALS_FILE"]


def test_the_aggregator_has_no_way_to_the_store_and_its_memory_fits(project: Project) -> None:
    aggregator = project["services"]["aggregator"]
    assert not aggregator.get("secrets")
    assert list(aggregator["networks"]) == ["inside"]
    # Restoring a lane takes as much again as the lane will hold.
    holds = 2 * settings(environment(aggregator)).aggregator.memory_mb * 2**20
    assert size(aggregator["deploy"]["resources"]["limits"]["memory"]) >= holds


def test_nothing_of_the_store_is_reached_without_a_key(project: Project) -> None:
    s3 = project["services"]["s3"]
    (secret,) = s3["secrets"]
    given = dict(word.removeprefix("-").partition("=")[::2] for word in s3["command"])
    assert {name: given[name] for name in ("ip.bind", "s3.ip.bind", "s3.config", "master.telemetry")} == {
        "ip.bind": "127.0.0.1",
        "s3.ip.bind": "0.0.0.0",
        "s3.config": secret["target"],
        "master.telemetry": "false",
    }


def test_only_detectors_reach_the_world(project: Project) -> None:
    ours = {name: one["networks"] for name, one in project["services"].items() if one["image"].startswith(OURS)}
    assert {name for name, networks in ours.items() if "outside" in networks} == {"detector-0", "detector-cpu"}
    assert project["networks"]["inside"]["internal"] is True


def test_shared_memory_is_part_of_the_limit(project: Project) -> None:
    for name, service in project["services"].items():
        if shared := service.get("shm_size"):
            assert 2 * size(shared) <= size(service["deploy"]["resources"]["limits"]["memory"]), name


def test_gpus_are_given_one_by_one_and_only_in_their_profile(project: Project) -> None:
    for name, service in project["services"].items():
        devices = service["deploy"]["resources"].get("reservations", {}).get("devices", [])
        if service.get("profiles") != ["gpu"]:
            assert not devices, name
            continue
        (device,) = devices
        assert device == {"driver": "nvidia", "device_ids": [name.rpartition("-")[2]], "capabilities": ["gpu"]}


def test_the_next_gpu_is_a_copy_with_another_number(load: Load, tmp_path: Path) -> None:
    text = FILE.read_text(encoding="utf-8")
    blocks = re.findall(r"(?m)^  (?:detector|reconstructor)-0:\n(?:    .*\n)+", text)
    assert len(blocks) == 2
    more = "\n".join(re.sub(r"(-|\[\")0\b", r"\g<1>1", block).replace("&model-files\n", "\n") for block in blocks)
    more = re.sub(r"    volumes: \*model-files\n", "", more)
    two = tmp_path / FILE.name
    two.write_text(
        text.replace(
            "  # ---------------------------------------------------------------- looking", more + "\n  # looking"
        )
    )
    services = loaded(load, two, "gpu")["services"]
    assert {"detector-0", "detector-1", "reconstructor-0", "reconstructor-1"} <= set(services)
    for name in ("detector-1", "reconstructor-1"):
        assert services[name]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["1"]
        assert services[name]["command"][-1] == services[name]["hostname"] == name


def test_the_cpu_profile_fits_a_laptop(load: Load) -> None:
    services = loaded(load, FILE, "cpu")["services"].values()
    assert sum(size(one["deploy"]["resources"]["limits"]["memory"]) for one in services) <= LAPTOP


def test_secrets_are_files_that_git_ignores_and_the_script_makes(project: Project, tmp_path: Path) -> None:
    folder = ROOT / "ops" / "secrets"
    wanted = {Path(secret["file"]) for secret in project["secrets"].values()}
    assert {path.parent for path in wanted} == {folder}
    ignored = subprocess.run(["git", "check-ignore", *wanted], cwd=ROOT, capture_output=True, text=True)
    assert len(ignored.stdout.splitlines()) == len(wanted)
    # The script beside a folder of its own, twice: the second run keeps what the first one made.
    (tmp_path / "ops").mkdir()
    script = tmp_path / "ops" / "stack.sh"
    script.write_text((OPS / "stack.sh").read_text(encoding="utf-8"), encoding="utf-8")
    made: list[dict[str, str]] = []
    for _ in range(2):
        subprocess.run(["sh", script, "secrets"], check=True, timeout=30)
        assert (script.parent / "secrets").stat().st_mode & 0o777 == 0o700
        made.append({path.name: path.read_text() for path in (script.parent / "secrets").iterdir()})
    assert made[0] == made[1]
    assert set(made[0]) == {path.name for path in wanted}
    ((identity,),) = json.loads(made[0]["s3_identities.json"]).values()
    (keys,) = identity["credentials"]
    assert len(keys["secretKey"]) == 48
    assert f"aws_access_key_id = {keys['accessKey']}\n" in made[0]["s3_credentials"]
    assert f"aws_secret_access_key = {keys['secretKey']}\n" in made[0]["s3_credentials"]
    assert len(made[0]["grafana_password"]) == 48


def test_no_secret_stands_in_the_files(project: Project) -> None:
    for service in project["services"].values():
        require_secrets_by_file(service.get("environment") or {})
    for file in (FILE, ROOT / ".env.example", OPS / "stack.sh"):
        require_no_secrets(file.name, file.read_text(encoding="utf-8"))


def test_what_may_be_set_is_used() -> None:
    text = FILE.read_text(encoding="utf-8")
    names = re.findall(r"(?m)^(\w+)=", (ROOT / ".env.example").read_text(encoding="utf-8"))
    assert set(re.findall(r"\$\{(\w+)", text)) | {"COMPOSE_PROFILES"} == set(names)


def test_what_is_mounted_is_there_and_prometheus_finds_the_workers(project: Project) -> None:
    sources = {
        Path(volume["source"])
        for service in project["services"].values()
        for volume in service.get("volumes") or []
        if volume["type"] == "bind"
    }
    assert {path.relative_to(ROOT).as_posix() for path in sources if not path.exists()} <= {"weights"}
    aliases = {
        alias
        for one in project["services"].values()
        for net in one["networks"].values()
        for alias in (net or {}).get("aliases", [])
    }
    scraped = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    asked = {(name, one["port"]) for job in scraped for one in job["dns_sd_configs"] for name in one["names"]}
    assert asked == {(alias, 9400) for alias in aliases}
    (dashboards,) = (OPS / "grafana" / "provisioning" / "dashboards").glob("*.yml")
    (provider,) = yaml.safe_load(dashboards.read_text(encoding="utf-8"))["providers"]
    mounted = {volume["target"] for volume in project["services"]["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounted
