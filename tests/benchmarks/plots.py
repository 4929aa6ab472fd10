"""The plots of the page of results: one small PNG a benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.figures import Spread
from tests.benchmarks.states import State

matplotlib.use("Agg")

DPI = 90
OURS, OTHER, THIRD, WANTED = "#1f5f8b", "#c9772b", "#7a7a7a", "#b03030"


def draw(state: State, file: Path) -> None:
    """A benchmark's plot."""
    figure = _DRAWN[state["name"]](state["figures"])
    # Without a date: the same figures are the same file.
    figure.savefig(file, dpi=DPI, metadata={"Software": None})


def _figure(columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.2 * columns + 1.4, 3.2), layout="constrained")
    axes = [figure.add_subplot(1, columns, number + 1) for number in range(columns)]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
    return figure, axes


def _ranges(spreads: Sequence[Spread]) -> list[list[float]]:
    """How far the least and the most are from the median, as error bars want it."""
    return [[one.median - one.least for one in spreads], [one.most - one.median for one in spreads]]


def _bars(axes: Axes, names: Sequence[str], series: dict[str, list[Spread]]) -> None:
    width = 0.8 / len(series)
    for number, (label, spreads) in enumerate(series.items()):
        places = [place + (number - (len(series) - 1) / 2) * width for place in range(len(names))]
        heights = [one.median for one in spreads]
        colour = (OURS, OTHER, THIRD, WANTED)[number % 4]
        axes.bar(places, heights, width, yerr=_ranges(spreads), label=label, color=colour, ecolor="black", capsize=2)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.legend(fontsize=8, frameon=False)


def _makespan(figures: dict[str, Any]) -> Figure:
    figure, [axes] = _figure()
    scenarios = figures["scenarios"]
    names = [f"{one['images']} x {one['objects']}\n{one['object_s']:g} s" for one in scenarios]
    labels = {"the service": "service", "a pool in one process": "pool", "key hashing": "hashing"}
    _bars(axes, names, {label: [Spread.of(one[name]) for one in scenarios] for label, name in labels.items()})
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_ylabel("makespan / ideal")
    return figure


def _fleet(figures: dict[str, Any]) -> Figure:
    figure, [axes] = _figure()
    fleets = figures["fleets"]
    gpus = [one["gpus"] for one in fleets]
    for name, label, colour in (("seconds", "the service", OURS), ("by_count_s", "by count (computed)", OTHER)):
        spreads = [Spread.of([run["ideal_s"] / run[name] for run in one["runs"]]) for one in fleets]
        heights = [one.median for one in spreads]
        axes.errorbar(gpus, heights, yerr=_ranges(spreads), marker="o", capsize=3, label=label, color=colour)
    axes.axhline(1.0, color="black", linewidth=0.8)
    limits = {int(name): 1 / limit for name, limit in figures["limits"].items() if int(name) in gpus}
    axes.plot(list(limits), list(limits.values()), "_", color=WANTED, markersize=16, label="at least")
    axes.set_xscale("log", base=2)
    axes.set_xticks(gpus, [str(one) for one in gpus])
    axes.set_xlabel("GPUs")
    axes.set_ylabel("list scheduling / makespan")
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _busy(figures: dict[str, Any]) -> Figure:
    figure, [axes] = _figure()
    sizes = figures["sizes"]
    seconds = [one["seconds"] for one in sizes]
    spreads = [Spread.of([100 * share for share in one["shares"]]) for one in sizes]
    heights = [one.median for one in spreads]
    axes.errorbar(seconds, heights, yerr=_ranges(spreads), marker="o", capsize=3, color=OURS, label="the model works")
    wanted = [(one["seconds"], 100 * one["limit"]) for one in sizes if one["limit"]]
    if wanted:
        axes.plot(*zip(*wanted, strict=True), "_", color=WANTED, markersize=16, label="at least")
    axes.set_xscale("log")
    axes.set_xticks(seconds, [f"{one:g}" for one in seconds])
    axes.minorticks_off()
    axes.set_xlabel("seconds an object")
    axes.set_ylabel("% of the time")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _latency(figures: dict[str, Any]) -> Figure:
    figure, [axes] = _figure()
    for load, colour in zip(figures["loads"], (OURS, OTHER), strict=False):
        values = sorted(1000 * one for run in load["ideal"] for one in run)
        parts = [(number + 1) / len(values) for number in range(len(values))]
        axes.step(values, parts, where="post", color=colour, label=load["name"])
    wanted = [(1000 * limit, int(percent) / 100) for percent, limit in figures["limits"].items()]
    axes.plot(*zip(*wanted, strict=True), "|", color=WANTED, markersize=14, markeredgewidth=2, label="at most")
    axes.set_xlabel("ms over list scheduling")
    axes.set_ylabel("share of the images")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _paths(figures: dict[str, Any]) -> Figure:
    rates = figures["rates"]
    figure, every = _figure(len(rates))
    labels = {"service": "the service", "same": "bare loop,\nsame", "bare": "bare loop,\nbare", "quix": "Quix\nStreams"}
    for axes, (what, hows) in zip(every, rates.items(), strict=True):
        spreads = [Spread.of(hows[how]) for how in labels if how in hows]
        heights, colours = [one.median for one in spreads], [OURS, *[OTHER] * (len(spreads) - 1)]
        axes.bar(range(len(spreads)), heights, yerr=_ranges(spreads), color=colours, capsize=3)
        axes.set_xticks(range(len(spreads)), [labels[how] for how in labels if how in hows], fontsize=8)
        axes.set_title(what, fontsize=9)
        axes.set_ylabel("records/s")
    return figure


def _growth(figures: dict[str, Any]) -> Figure:
    flight, length = figures.get("flight"), figures.get("length")
    figure, every = _figure(2 * bool(flight) + bool(length))
    places = iter(every)
    if flight:
        images = [one["images"] for one in flight]
        axes = next(places)
        each = [1024 * (one["full_mb"] - one["empty_mb"]) / one["images"] for one in flight]
        axes.plot(images, each, marker="o", color=OURS)
        axes.axhline(figures["limits"]["kb"], color=WANTED, linewidth=0.8)
        axes.set(xscale="log", xlabel="images in flight", ylabel="KB an image", ylim=(0, None))
        axes = next(places)
        spreads = [Spread.of(one["restored_s"]) for one in flight]
        heights = [one.median for one in spreads]
        axes.errorbar(images, heights, yerr=_ranges(spreads), marker="o", capsize=3, color=OURS)
        axes.set(xscale="log", yscale="log", xlabel="images in flight", ylabel="restored in, s")
    if length:
        axes = next(places)
        for run in length["long"]:
            seen = [(number + 2, value) for number, value in enumerate(run["tenths"]) if value is not None]
            axes.plot(*zip(*seen, strict=True), marker=".", color=OURS, alpha=0.6)
        axes.axhline(statistics.median(run["rate"] for run in length["short"]), color=OTHER, linewidth=0.8)
        axes.set(xlabel="tenth of a long topic", ylabel="records/s", ylim=(0, None))
    return figure


_DRAWN: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "makespan": _makespan,
    "fleet": _fleet,
    "busy": _busy,
    "latency": _latency,
    "paths": _paths,
    "growth": _growth,
}
