"""The dashboards of Grafana, `dashboards/*.json`: `make metrics` writes them anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS, HEIGHT = 3, 8
WIDTH = 24 // COLUMNS

MODEL = "stream_worker_model"
JOIN = "stream_worker_join"


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph: PromQL by what its lines are called (`{{label}}` stands for a label's value)."""

    title: str
    unit: str
    lines: dict[str, str]
    description: str = ""
    stacked: bool = False
    limits: dict[str, float] = field(default_factory=dict)


def rate(metric: str, *by: str, seconds: str = "5m") -> str:
    """So many a second, by labels."""
    return f"sum by ({', '.join(by)}) (rate({metric}[{seconds}]))"


def quantile(share: float, histogram: str, *by: str) -> str:
    """What this share of the observations stay below, by labels."""
    return f"histogram_quantile({share}, {rate(histogram + '_bucket', *by, 'le')})"


SECONDS, PER_S, COUNT, SHARE, BYTES = "s", "cps", "short", "percentunit", "bytes"

OVERVIEW = [
    Panel("Workers", COUNT, {"{{stage}}": "count by (stage) (stream_worker_build_info)"}),
    Panel("Images completed", PER_S, {"{{status}}": rate("stream_worker_image_seconds_count", "status")}, stacked=True),
    Panel(
        "From publishing to outcome",
        SECONDS,
        {
            "half of them": quantile(0.5, "stream_worker_image_seconds"),
            "95 %": quantile(0.95, "stream_worker_image_seconds"),
        },
    ),
    Panel("Records", PER_S, {"{{stage}} {{outcome}}": "stage:stream_worker_records:rate5m"}, "Committed ones."),
    Panel("Lag", COUNT, {"{{stage}}": "stage:stream_worker_lag_records:sum"}, "Records that are not committed."),
    Panel(
        "Oldest record that waits",
        SECONDS,
        {"{{stage}}": "stage:stream_worker_oldest_waiting_seconds:max"},
        limits={"deadline": 900},
    ),
    Panel("Errors", PER_S, {"{{stage}} {{reason}}": rate("stream_worker_errors_total", "stage", "reason") + " > 0"}),
    Panel("Retries", PER_S, {"{{stage}} {{reason}}": rate("stream_worker_retries_total", "stage", "reason") + " > 0"}),
    Panel(
        "Dead letters",
        PER_S,
        {"{{stage}} {{reason}}": rate("stream_worker_dead_letters_total", "stage", "reason") + " > 0"},
    ),
    Panel("Outages of ours", SECONDS, {"{{of}}": "max by (of) (stream_worker_outage_seconds)"}, "Waited out so far."),
    Panel("A record's phases, 95 %", SECONDS, {"{{stage}} {{phase}}": "stage:stream_worker_phase_seconds:p95"}),
    Panel(
        "In flight",
        SHARE,
        {"{{stage}}": "sum by (stage) (stream_worker_in_flight) / sum by (stage) (stream_worker_in_flight_limit)"},
        "Of what the stage's workers take at once.",
    ),
]

MODELS = [
    Panel(
        "Busy",
        SHARE,
        {"{{model}} {{instance}}": 'instance:stream_worker_model_busy:share5m{model=~"detector|reconstructor"}'},
        "Share of time that the model has had a task: with a GPU, the GPU's.",
    ),
    Panel("Tasks", PER_S, {"{{model}}": rate(f"{MODEL}_task_seconds_count", "model")}),
    Panel("A task, 95 %", SECONDS, {"{{model}}": quantile(0.95, f"{MODEL}_task_seconds", "model")}),
    Panel(
        "GPU memory",
        BYTES,
        {
            "{{model}} {{instance}}": f"{MODEL}_gpu_memory_bytes > 0",
            "limit {{model}} {{instance}}": f"{MODEL}_gpu_memory_limit_bytes > 0",
        },
        "What torch holds, its caches included; not CUDA's context.",
    ),
    Panel("Out of GPU memory", PER_S, {"{{model}}": rate(f"{MODEL}_out_of_memory_total", "model")}),
    Panel("Resident memory", BYTES, {"{{model}} {{instance}}": f"{MODEL}_memory_bytes"}),
    Panel(
        "What they are doing",
        COUNT,
        {"{{state}}": f'sum by (state) ({MODEL}_state{{model=~"detector|reconstructor"}})'},
        stacked=True,
    ),
    Panel("Ends", PER_S, {"{{model}} {{cause}}": rate(f"{MODEL}_ends_total", "model", "cause") + " > 0"}),
    Panel("Starts", PER_S, {"{{model}}": rate(f"{MODEL}_starts_total", "model")}),
    Panel(
        "Photos at a time",
        COUNT,
        {
            "mean": rate("stream_worker_batch_photos_sum", "model")
            + " / "
            + rate("stream_worker_batch_photos_count", "model")
        },
    ),
    Panel("Compiled", COUNT, {"{{model}} {{instance}}": f"{MODEL}_compiled"}),
    Panel("The workers' own memory", BYTES, {"{{job}} {{instance}}": "process_resident_memory_bytes"}),
]

KAFKA = [
    Panel(
        "Lag by partition",
        COUNT,
        {"{{topic}} {{partition}}": "max by (topic, partition) (stream_worker_lag_records)"},
    ),
    Panel(
        "Oldest record by partition",
        SECONDS,
        {"{{topic}} {{partition}}": "max by (topic, partition) (stream_worker_oldest_waiting_seconds)"},
    ),
    Panel("Partitions", COUNT, {"{{stage}} {{state}}": "sum by (stage, state) (stream_worker_lanes)"}),
    Panel("Transactions", PER_S, {"{{stage}}": rate("stream_worker_transaction_seconds_count", "stage")}),
    Panel("A transaction, 95 %", SECONDS, {"{{stage}}": quantile(0.95, "stream_worker_transaction_seconds", "stage")}),
    Panel("Rebalances", COUNT, {"{{stage}}": "max by (stage) (increase(stream_worker_rebalances_total[15m]))"}),
    Panel(
        "Producers lost, takeovers from the dead",
        COUNT,
        {
            "{{stage}} producers": "sum by (stage) (increase(stream_worker_producers_lost_total[15m]))",
            "{{stage}} takeovers": "sum by (stage) (increase(stream_worker_crashed_takeovers_total[15m]))",
        },
    ),
    Panel(
        "Without progress",
        SHARE,
        {"{{stage}} {{instance}}": "stream_worker_progress_age_seconds / stream_worker_watchdog_seconds"},
        "Of the watchdog's time. Grows where there is nothing to do, too.",
    ),
    Panel("Event loop late", SECONDS, {"{{stage}} {{instance}}": "stream_worker_loop_delay_seconds"}),
    Panel("Join: images", COUNT, {"{{state}}": f"sum by (state) ({JOIN}_images)"}, stacked=True),
    Panel("Join: oldest open image", SECONDS, {"{{instance}}": f"{JOIN}_oldest_seconds"}, limits={"deadline": 900}),
    Panel("Join: memory", SHARE, {"{{instance}}": f"{JOIN}_bytes / {JOIN}_limit_bytes"}),
    Panel(
        "Join: completed by their deadline, forgotten early",
        PER_S,
        {
            "by deadline": f"sum(rate({JOIN}_expired_total[5m]))",
            "forgotten early": f"sum(rate({JOIN}_forgotten_early_total[5m]))",
        },
    ),
    Panel("Join: partitions that take no more", COUNT, {"{{instance}}": f"{JOIN}_full_lanes"}),
]

DASHBOARDS = {
    "overview": ("stream_worker: the stages", OVERVIEW),
    "models": ("stream_worker: models and GPUs", MODELS),
    "kafka": ("stream_worker: Kafka and the join", KAFKA),
}


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard as Grafana keeps it."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"stream-worker-{name}",
        "title": title,
        "tags": ["stream_worker"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["stream_worker"], "title": "stream_worker", "asDropdown": False}],
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_graph(number, panel) for number, panel in enumerate(panels)],
    }


def _graph(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    lines = {**panel.lines, **{name: f"vector({value:g})" for name, value in panel.limits.items()}}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {
                    "fillOpacity": 20 if panel.stacked else 0,
                    "stacking": {"mode": "normal" if panel.stacked else "none"},
                },
            },
            "overrides": [],
        },
        "options": {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for place, (legend, expression) in enumerate(lines.items())
        ],
    }


def files() -> Iterator[tuple[Path, str]]:
    """What is written where."""
    for name in DASHBOARDS:
        yield FOLDER / f"{name}.json", json.dumps(dashboard(name), indent=1) + "\n"


if __name__ == "__main__":
    for path, text in files():
        path.write_text(text, encoding="utf-8")
