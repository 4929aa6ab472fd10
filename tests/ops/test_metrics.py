"""What operators are given is of one piece: registry, page, dashboards, rules, their tests, and the runbook."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from ops.docs.metrics import PAGE, families, page
from ops.grafana.render import FOLDER, files
from stream_worker import metrics
from stream_worker.errors import Ours, Reason
from stream_worker.models.keeper import State
from stream_worker.status import GROUPS

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
PROMETHEUS = OPS / "prometheus"
RUNBOOK = (OPS / "runbook.md").read_text(encoding="utf-8")
NOT_OURS = {"up"}
WORDS = {"and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "bool", "offset"}


def rules() -> Iterator[dict[str, Any]]:
    for name in ("alerts.yml", "recording.yml"):
        for group in yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboards() -> dict[str, Any]:
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL that we write, and where."""
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]


def series(expression: str) -> set[str]:
    """The names of the series that a PromQL expression asks for."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    return {
        name
        for name, call in re.findall(r"([a-zA-Z_:][\w:]*)\s*(\(?)", bare)
        if not call and name not in WORDS and not name.isdigit()
    }


def known() -> set[str]:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    return set().union(*(one.series() for one in families())) | recorded | NOT_OURS


# ---------------------------------------------------------------------- the registry and its page


def test_metrics_are_made_in_one_file_only() -> None:
    for path in (ROOT / "stream_worker").rglob("*.py"):
        if path == ROOT / "stream_worker" / "metrics.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "prometheus_client" for name in imported), path


def test_all_that_is_in_the_registry_is_known_by_its_help() -> None:
    shown = list(families())
    assert all(len(one.help) > 10 for one in shown)
    ours = [one.name for one in shown if not one.name.startswith("process_")]
    assert all(name.startswith("stream_worker_") for name in ours)
    served = {family.name for family in metrics.REGISTRY.collect()}
    assert served == {one.name.removesuffix("_total") for one in shown}


def test_the_page_is_what_the_registry_says() -> None:
    """If this fails: make metrics."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_label_says_one_of_a_closed_set() -> None:
    assert {label for one in families() for label in one.labels} == set(metrics.LABELS)
    assert tuple(state.value for state in State) == metrics.MODEL_STATES
    assert metrics.LABELS["of"] == ", ".join(Ours)


def test_what_may_be_counted_is_shown_before_it_is() -> None:
    metrics.begin("detector")
    (letters,) = metrics.DEAD_LETTERS.collect()
    shown = {(one.labels["stage"], one.labels["reason"]) for one in letters.samples}
    assert {("detector", reason.value) for reason in Reason} <= shown


# ---------------------------------------------------------------------- dashboards


def test_the_dashboards_are_what_their_script_makes() -> None:
    """If this fails: make metrics."""
    made = dict(files())
    assert {path.name for path in made} == set(dashboards())
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text


def test_grafana_finds_dashboards_and_prometheus() -> None:
    folder = OPS / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "stream-worker.yml").read_text())["providers"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert provider["type"] == "file"
    assert len({board["uid"] for board in dashboards().values()}) == len(dashboards())


# ---------------------------------------------------------------------- what is asked for is there


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        (
            'sum by (stage, le) (rate(stream_worker_x_bucket{a=~"or|by", b="{y}"}[5m])) > 0.5',
            {"stream_worker_x_bucket"},
        ),
        ("a / on (stage) group_left sum by (stage) (b) and c", {"a", "b", "c"}),
        ("stage:x:sum unless on (job) up == 1e3", {"stage:x:sum", "up"}),
        ("vector(900)", set()),
    ],
)
def test_names_are_found_in_expressions(expression: str, named: set[str]) -> None:
    assert series(expression) - {"e3"} == named


def test_what_rules_and_dashboards_ask_for_is_in_the_registry() -> None:
    there = known()
    for place, expression in expressions():
        asked = series(expression)
        assert asked <= there, f"{place}: {asked - there}"
        assert asked or "vector(" in expression, place


def test_labels_that_rules_and_dashboards_ask_for_are_those_of_some_metric() -> None:
    labels = {label for one in families() for label in one.labels} | {"instance", "job", "le"}
    for place, expression in expressions():
        bare = re.sub(r'"[^"]*"', "", expression)
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)(?!=)", "".join(re.findall(r"\{[^}]*\}", bare))))
        for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", bare):
            asked |= {name.strip() for name in group.split(",")}
        assert asked <= labels, f"{place}: {asked - labels}"


def test_somebody_looks_at_every_metric() -> None:
    recorded = {rule["record"]: series(rule["expr"]) for rule in rules() if "record" in rule}
    asked: set[str] = set()
    for _, expression in expressions():
        for name in series(expression):
            asked |= recorded.get(name, {name})
    for one in families():
        if one.name.startswith("stream_worker_"):
            assert one.series() & asked, f"no dashboard and no rule asks for {one.name}"


def test_the_runbook_speaks_of_metrics_that_there_are() -> None:
    there = known() | {one.name for one in families()}
    for name in re.findall(r"`((?:instance:|stage:)?stream_worker_[\w:]+)", RUNBOOK):
        assert name in there, name


# ---------------------------------------------------------------------- alerts


def test_every_alert_says_what_to_do() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^##? |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    for rule in alerts():
        name = rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"ops/runbook.md#{name.lower()}", name
        assert name in sections, f"the runbook has no section {name}"
        for part in ("**Means.**", "**Look.**", "**Do.**"):
            assert sections[name].count(part) == 1, f"{name}: {part}"


def test_links_of_the_runbook_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", RUNBOOK):
        file, _, anchor = target.partition("#")
        text = (OPS / file).read_text(encoding="utf-8") if file else RUNBOOK
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, target


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    fires: set[str] = set()
    quiet: set[str] = set()
    for path in (PROMETHEUS / "tests").glob("*.yml"):
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for look in case["alert_rule_test"]:
                (fires if look["exp_alerts"] else quiet).add(look["alertname"])
    names = {rule["alert"] for rule in alerts()}
    assert (fires, quiet) == (names, names)


@pytest.fixture
def promtool() -> str:
    """Prometheus' own tool, in Debian's package `prometheus`."""
    found = shutil.which("promtool")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no promtool here (Debian: in the package prometheus)")
    return found


def _run(*command: str | Path, given: bytes | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, timeout=120)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_prometheus_takes_configuration_and_rules(promtool: str) -> None:
    _run(promtool, "check", "config", PROMETHEUS / "prometheus.yml")
    _run(promtool, "check", "rules", "--lint-fatal", PROMETHEUS / "alerts.yml", PROMETHEUS / "recording.yml")


def test_prometheus_understands_what_dashboards_ask(promtool: str, tmp_path: Path) -> None:
    asked = [{"record": f"asked_{number}", "expr": text} for number, (_, text) in enumerate(expressions())]
    file = tmp_path / "asked.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]}), encoding="utf-8")
    _run(promtool, "check", "rules", file)


def test_every_group_is_scraped() -> None:
    content = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    assert {job["job_name"] for job in content["scrape_configs"]} == set(GROUPS)
    for job in content["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        assert found["names"] == [job["job_name"] + "s"], "the alias of all workers of the stage"


def test_alerts_fire_when_they_should_and_not_otherwise(promtool: str) -> None:
    _run(promtool, "test", "rules", *sorted((PROMETHEUS / "tests").glob("*.yml")))


def test_prometheus_has_nothing_against_the_names(promtool: str) -> None:
    _run(promtool, "check", "metrics", given=generate_latest(metrics.REGISTRY))


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_the_cases_of_an_alert_notice_when_it_never_fires(promtool: str, tmp_path: Path, rule: dict[str, Any]) -> None:
    """A case that a dead rule would pass as well proves nothing: each alert is made one, in a copy."""
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    content = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))
    for group in content["groups"]:
        for one in group["rules"]:
            if one["alert"] == rule["alert"]:
                one["expr"] = "vector(1) < 0"
    (tmp_path / "prometheus" / "alerts.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    cases = sorted((tmp_path / "prometheus" / "tests").glob("*.yml"))
    mine = [case for case in cases if f"alertname: {rule['alert']}" in case.read_text(encoding="utf-8")]
    done = subprocess.run([promtool, "test", "rules", *mine], capture_output=True, timeout=120)
    assert done.returncode != 0
