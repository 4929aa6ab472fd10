"""The manifests by Kubernetes' own schemas and KEDA's, and by what the service promises."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml

from stream_worker.aggregator.service import Aggregator
from stream_worker.detector import NAME as DETECTOR
from stream_worker.reconstructor import NAME as RECONSTRUCTOR
from stream_worker.settings import Settings
from stream_worker.topics import TOPICS
from tests.ops.promises import (
    OPS,
    drain_s,
    go,
    require_command,
    require_no_secrets,
    require_secrets_by_file,
    settings,
    size,
    walk,
)

FOLDER = OPS / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
KEDA = "github.com/kedacore/keda/v2@v2.21.0"
VERSION = kubernetes_validate.latest_version()
GROUPS = {DETECTOR, RECONSTRUCTOR, Aggregator.name}
COMMANDS = {DETECTOR: "detect", RECONSTRUCTOR: "reconstruct", Aggregator.name: "aggregate"}

Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    files = [FOLDER / name for name in KUSTOMIZATION["resources"]]
    return [one for file in files for one in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def of(kind: str) -> dict[str, Manifest]:
    return {one["metadata"]["name"]: one for one in manifests() if one["kind"] == kind}


def workers() -> dict[str, Manifest]:
    """Deployments by the component that they run."""
    return {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: one
        for one in of("Deployment").values()
    }


def pods() -> dict[str, Manifest]:
    found = {name: one["spec"]["template"]["spec"] for name, one in workers().items()}
    return {**found, "topics": of("Job")["stream-worker-topics"]["spec"]["template"]["spec"]}


def variables(container: Manifest) -> dict[str, str]:
    """What a container has as variables: the settings that all share, and its own."""
    assert container["envFrom"] == [{"configMapRef": {"name": "stream-worker-settings"}}]
    lines = (FOLDER / "settings.env").read_text(encoding="utf-8").splitlines()
    shared = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {**shared, **{one["name"]: one["value"] for one in container.get("env", [])}}


def chosen() -> Settings:
    return settings(variables(pods()["aggregator"]["containers"][0]))


@pytest.fixture(scope="module")
def keda() -> Path:
    """KEDA's sources of that version, which have its schemas; a Go module, fetched once."""
    return Path(json.loads(go("mod", "download", "-json", KEDA, folder=Path(__file__).parent / "compose"))["Dir"])


@pytest.fixture(scope="module")
def scaled_object(keda: Path) -> jsonschema_rs.Draft202012Validator:
    """The schema of a ScaledObject that also refuses what it does not know: the API server would drop it."""
    crd = yaml.safe_load((keda / "config/crd/bases/keda.sh_scaledobjects.yaml").read_text(encoding="utf-8"))
    (version,) = (one for one in crd["spec"]["versions"] if one["name"] == "v1alpha1")
    schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    for _, part in [("", schema), *walk(schema)]:
        if isinstance(part, dict) and isinstance(part.get("properties"), dict) and "additionalProperties" not in part:
            part["additionalProperties"] = False
    return jsonschema_rs.Draft202012Validator(schema)


def test_every_file_is_part_of_the_whole() -> None:
    assert {file.name for file in FOLDER.glob("*.yaml")} == {"kustomization.yaml", *KUSTOMIZATION["resources"]}
    assert not [one for one in manifests() if one["kind"] == "Secret"]


def test_manifests_are_right_by_kubernetes_schemas() -> None:
    checked = [one for one in manifests() if not one["apiVersion"].startswith("keda.sh/")]
    assert len(checked) >= 12
    for one in checked:
        kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["spec"].update(replica=2),
        lambda d: d["spec"].update(strategy="RollingUpdate"),
        lambda d: d["spec"].pop("selector"),
        lambda d: d["spec"]["template"]["spec"].update(terminationGracePeriodSeconds="45s"),
        lambda d: d["spec"]["template"]["spec"]["containers"][0].update(securitycontext={}),
        lambda d: d["spec"]["template"]["spec"]["containers"][0]["startupProbe"].update(httpGet={"path": "/metrics"}),
    ],
)
def test_a_broken_deployment_is_refused(change: Callable[[Manifest], Any]) -> None:
    broken = copy.deepcopy(workers()["detector"])
    change(broken)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


def test_scaled_objects_are_right_by_kedas_schema(
    keda: Path, scaled_object: jsonschema_rs.Draft202012Validator
) -> None:
    source = (keda / "pkg/scalers/kafka_scaler.go").read_text(encoding="utf-8")
    known = set(re.findall(r'`keda:"name=(\w+),order=triggerMetadata', source))
    assert {"lagThreshold", "consumerGroup"} <= known
    for one in of("ScaledObject").values():
        assert [f"{each.instance_path}: {each.message}" for each in scaled_object.iter_errors(one)] == []
        for trigger in one["spec"]["triggers"]:
            assert trigger["type"] == "kafka"
            assert set(trigger["metadata"]) <= known
            assert all(isinstance(value, str) for value in trigger["metadata"].values())


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["spec"].update(maxReplicas=3),
        lambda d: d["spec"].update(minReplicaCount="1"),
        lambda d: d["spec"].pop("scaleTargetRef"),
        lambda d: d["spec"]["triggers"][0].pop("type"),
        lambda d: d["spec"]["triggers"][0]["metadata"].update(lagThreshold=40),
        lambda d: d["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"].update(scaledown={}),
        lambda d: d["spec"]["fallback"].update(behavior="most"),
    ],
)
def test_a_broken_scaled_object_is_refused(
    scaled_object: jsonschema_rs.Draft202012Validator, change: Callable[[Manifest], Any]
) -> None:
    broken = copy.deepcopy(of("ScaledObject")["stream-worker-detector"])
    change(broken)
    assert not scaled_object.is_valid(broken)


def test_workers_run_real_commands_with_real_settings_and_time_to_drain() -> None:
    assert set(workers()) == GROUPS
    for name, pod in pods().items():
        (container,) = pod["containers"]
        environment = variables(container)
        assert settings(environment).kafka.bootstrap_servers
        require_secrets_by_file(environment)
        command = require_command(container["args"])
        if name == "topics":
            assert command == "topics create"
            continue
        assert command == COMMANDS[name]
        # A static name would have to be the same pod's again, and a member with one is missed for its whole session.
        assert container["args"] == [command]
        assert pod["terminationGracePeriodSeconds"] >= drain_s(settings(environment)), name


def test_scaling_knows_groups_topics_and_partitions() -> None:
    """Markers of transactions count as lag for ever, one a partition: they must not start a worker."""
    partitions = chosen().kafka.partitions
    topics = {spec.name if hasattr(spec, "name") else spec for spec in TOPICS}
    scaled = of("ScaledObject")
    assert set(scaled) == {f"stream-worker-{name}" for name in GROUPS}
    for name, one in scaled.items():
        spec = one["spec"]
        (trigger,) = spec["triggers"]
        metadata = trigger["metadata"]
        assert spec["scaleTargetRef"]["name"] == name in of("Deployment")
        assert f"stream-worker-{metadata['consumerGroup']}" == name
        assert metadata["topic"] in topics
        assert metadata["bootstrapServers"] == chosen().kafka.bootstrap_servers
        assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"] <= partitions
        assert int(metadata["lagThreshold"]) * spec["minReplicaCount"] > partitions
        assert "replicas" not in of("Deployment")[name]["spec"], "it would undo the scaling at every apply"


def test_budgets_and_policies_select_what_there_is() -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"].items() for one in workers().values()]
    budgets = of("PodDisruptionBudget")
    assert set(budgets) == set(of("Deployment"))
    for name, one in budgets.items():
        assert one["spec"]["selector"] == of("Deployment")[name]["spec"]["selector"]
        assert one["spec"]["maxUnavailable"] == 1
    for one in of("NetworkPolicy").values():
        wanted = one["spec"]["podSelector"]["matchLabels"].items()
        assert any(wanted <= pod for pod in labels)


def test_pods_have_limits_probes_and_few_rights() -> None:
    assert of("Namespace")["stream-worker"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert of("ServiceAccount")["stream-worker"]["automountServiceAccountToken"] is False
    for name, pod in pods().items():
        (container,) = pod["containers"]
        assert pod["serviceAccountName"] == "stream-worker"
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind]), name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert set(mounts) == set(volumes)
        assert not [volume for volume in volumes.values() if "hostPath" in volume]
        assert all("sizeLimit" in volume["emptyDir"] for volume in volumes.values() if "emptyDir" in volume)
        if name == "topics":
            continue
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"] == {"path": "/metrics", "port": "metrics"}
        assert container["ports"] == [{"name": "metrics", "containerPort": chosen().metrics.port}]


def test_gpus_memory_and_the_stores_keys_are_where_they_are_needed() -> None:
    for name, pod in pods().items():
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        models = name in (DETECTOR, RECONSTRUCTOR)
        assert container["resources"]["limits"].get("nvidia.com/gpu") == ("1" if models else None)
        assert ("/dev/shm" in mounts) == models
        assert ("AWS_SHARED_CREDENTIALS_FILE" in variables(container)) == models
        if models:
            keys = Path(variables(container)["AWS_SHARED_CREDENTIALS_FILE"])
            secret = volumes[mounts[str(keys.parent)]]["secret"]
            assert [item["path"] for item in secret["items"]] == [keys.name]
            shared = volumes[mounts["/dev/shm"]]["emptyDir"]
            assert shared["medium"] == "Memory"
            assert 2 * size(shared["sizeLimit"]) <= size(container["resources"]["limits"]["memory"])
    aggregator = pods()["aggregator"]["containers"][0]
    holds = 2 * settings(variables(aggregator)).aggregator.memory_mb * 2**20
    assert size(aggregator["resources"]["limits"]["memory"]) >= holds


def test_images_are_pinned_in_one_place() -> None:
    pinned = {one["name"]: one["newTag"] for one in KUSTOMIZATION["images"]}
    assert {container["image"] for pod in pods().values() for container in pod["containers"]} == set(pinned)
    for tag in pinned.values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", tag)


def test_no_secret_stands_in_the_files() -> None:
    for file in FOLDER.iterdir():
        require_no_secrets(file.name, file.read_text(encoding="utf-8"))


def test_kustomize_puts_it_together() -> None:
    """Only where kubectl is at hand: nothing is asked of a cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here")
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    made = list(yaml.safe_load_all(done.stdout))
    assert len(made) == len(manifests()) + 1
    assert ":latest" not in done.stdout
    assert done.stdout.count("image: registry.example.com/stream-worker/") == len(pods())
