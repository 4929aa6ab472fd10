"""The registry of metrics as a page, ops/metrics.md: `make metrics` writes it anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from stream_worker import metrics

PAGE = Path(__file__).parents[1] / "metrics.md"

HEAD = """\
# Metrics

Written by `make metrics` from [metrics.py](../stream_worker/metrics.py), the one place where a metric is made; a test
holds the two together.

A worker serves them at `/metrics` where `metrics.port` is set ([settings](../README.md#settings)); it is 9400 in the
[scrape configuration](prometheus/prometheus.yml). [Alerts](prometheus/alerts.yml), each with its section in the
[runbook](runbook.md), and [dashboards](grafana/dashboards) are made of these and nothing else.

A histogram `x` gives `x_bucket`, `x_sum` and `x_count`. What is counted starts at zero, not at its first event: to
Prometheus, a counter that begins at 1 has not increased.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name` is the one that is asked for; a histogram's series have endings of their own."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str

    def series(self) -> set[str]:
        """The names of its time series."""
        if self.kind == "histogram":
            return {f"{self.name}_{ending}" for ending in ("bucket", "sum", "count")}
        return {self.name}


def families() -> Iterator[Family]:
    """All of the registry, in the order of the file; those of the process last."""
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (about,) = metric.describe()
            yield _family(about.name, about.type, tuple(metric._labelnames), about.documentation)
    for about in metrics.PROCESS.collect():
        yield _family(about.name, about.type, (), about.documentation)


def _family(name: str, kind: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name + ("_total" if kind == "counter" else ""), kind, labels, text)


def page() -> str:
    """The page."""
    lines = ["| metric | type | labels | what it is |", "|---|---|---|---|"]
    for one in families():
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.help} |")
    lines += ["", "## Labels", "", "Closed sets: no ids, no addresses, nothing that a user sent.", ""]
    lines += ["| label | what it says |", "|---|---|"]
    lines += [f"| `{label}` | {what} |" for label, what in metrics.LABELS.items()]
    return HEAD + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
