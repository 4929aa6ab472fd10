"""The images' Dockerfile and what it is built from. No image is built here: there is no container engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.ops.promises import OPS, ROOT, require_command, require_no_secrets

IMAGES = OPS / "images"
DOCKERFILE = (IMAGES / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
STAGES = {"base", "detector", "reconstructor"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with its arguments on one line."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE)).splitlines()
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def pins(file: Path) -> dict[str, frozenset[str]]:
    """name==version -> its hashes."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line[:1].isspace():
            found[name].add(line.strip(" \\"))
        elif "==" in line:
            name = line.split(" ")[0]
            found[name] = set()
    return {name: frozenset(hashes) for name, hashes in found.items()}


def test_stages_build_on_a_pinned_image_or_on_each_other() -> None:
    stages = [re.fullmatch(r"(\S+) AS (\S+)", rest) for word, rest in instructions() if word == "FROM"]
    names = [stage[2] for stage in stages if stage]
    assert len(names) == len(stages)
    assert set(names) >= STAGES
    for stage in stages:
        assert stage
        assert stage[1] in ("python:${PYTHON}", *names)
    (python,) = [rest for word, rest in instructions() if word == "ARG"]
    assert re.fullmatch(r"PYTHON=3\.\d+\.\d+-slim-[a-z]+", python)
    for target in re.findall(r"target: ([a-z]+)\}", COMPOSE):
        assert target in names


def test_nothing_is_installed_without_its_hash() -> None:
    for word, rest in instructions():
        assert word != "ADD"
        for command in rest.split("&&") if word == "RUN" else ():
            if re.search(r"\bpip (install|sync)\b|\buv build\b", command):
                ours = "--no-deps" in command and "/wheel/*.whl" in command
                assert ours or "--require-hashes" in command, command


def test_images_run_as_a_user_with_a_health_check_and_an_init() -> None:
    given = dict(instructions())
    assert re.fullmatch(r"1\d{4}:1\d{4}", given["USER"])
    assert given["ENTRYPOINT"] == '["tini", "--", "stream-worker"]'
    assert given["STOPSIGNAL"] == "SIGTERM"
    check = next(rest for word, rest in instructions() if word == "HEALTHCHECK")
    assert "CMD" in check
    assert "9400/metrics" in check
    assert "STREAM_WORKER_METRICS__PORT=9400" in DOCKERFILE
    for word, rest in instructions():
        if word == "CMD":
            require_command(re.findall(r'"([^"]+)"', rest)) if "--help" not in rest else None
    assert re.findall(r'user: "(\d+:\d+)"\n  # The drain', COMPOSE) == [given["USER"]]


@pytest.mark.parametrize("name", ["base", "detector"])
def test_what_images_have_is_what_is_tested(name: str) -> None:
    """If this fails: `make lock` writes the images' locks too."""
    tested, had = pins(ROOT / "requirements.lock"), pins(IMAGES / f"{name}.lock")
    assert had
    assert all(had.values())
    assert {one: tested.get(one) for one in had} == had


def test_images_have_what_they_need_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base, detector = (
        {one.partition("==")[0] for one in pins(IMAGES / f"{name}.lock")} for name in ("base", "detector")
    )
    wanted = {re.split(r"[<>=;\[ ]", one)[0] for one in project["dependencies"]}
    assert wanted <= base <= detector
    assert {"torch", "ultralytics", "opencv-python-headless"} <= detector - base
    assert not {"pytest", "mypy", "hypothesis", "plotly"} & detector


def test_the_build_context_is_enough_and_has_no_more(tmp_path: Path) -> None:
    """What .dockerignore lets through, copied as the Dockerfile copies it, makes the wheel."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    assert not [name for name in let_through if re.match(r"tests|weights|\.git|\.venv|ops/secrets|runs", name)]
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    for name in sorted({name for names in copied for name in names}):
        assert name in let_through, f"{name} is copied, and not in the context"
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, tmp_path / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "wheel")]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert len(list((tmp_path / "wheel").glob("stream_worker-*.whl"))) == 1


def test_no_weights_but_the_packages_own() -> None:
    weights = {".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".engine"}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = [
        name
        for name in tracked
        if Path(name).suffix in weights and name.startswith(("stream_worker", "schemas", "ops"))
    ]
    assert found == ["stream_worker/models/weights/rooms-seg.pt"]
    require_no_secrets("Dockerfile", DOCKERFILE)
