"""The page of results: `python -m tests.benchmarks.page` writes tables and plots from what the benchmarks have left.

Each benchmark has its place in RESULTS.md, between two marks. What lies there is written anew where there is a state of
it, and else stays as it is; the text outside is by hand.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import states
from tests.benchmarks.figures import Spread, percentile
from tests.benchmarks.states import State

RESULTS = Path(__file__).with_name("RESULTS.md")
PLOTS = Path(__file__).with_name("plots")

SEED = {
    (1, 1): (150, 8),
    (1, 3): (450, 21),
    (4, 1): (600, 9),
    (4, 3): (1836, 22),
    (10, 3): (4590, 54),
    (10, 5): (7650, 89),
}
"""Table 9.3 of the guide that the project was asked for with: images x objects, seconds before and after, on 4 GPUs."""

WIDTH = 150
SCALE = 10
"""A scenario at one tenth of the guide's seconds."""


def makespan(state: State) -> list[str]:
    """The six scenarios, and the guide's table beside ours."""
    figures = state["figures"]
    rows = [
        [
            one["name"],
            f"{one['ideal_s']:.2f}",
            *(Spread.of(one[what]).shown() for what in ("service", "pool", "hashing")),
            f"{one['limit']:.2f}",
            _verdict(statistics.median(one["service"]) <= one["limit"]),
        ]
        for one in figures["scenarios"]
    ]
    return [
        *_prose(
            f"The seed's six scenarios and its largest at full scale on {figures['gpus']} GPUs, each a detector",
            "process and a reconstructor process with models that only take their time. From the first publish to",
            f"the last completed event, by the ideal schedule: median of {_runs(figures['scenarios'][0]['service'])}",
            "(least to most). *A pool* is tasks of one process that sleep as long; *key hashing* is the ideal but",
            "for the partition, computed.",
        ),
        "",
        *_table(
            ["images x objects", "ideal, s", "the service", "a pool in one process", "key hashing", "at most", ""], rows
        ),
        "",
        *_plot("makespan", "Makespan by the ideal schedule"),
        *_prose(
            "Table 9.3 of the guide beside it: what it says of one server with four GPUs, and ours at 1 s an image",
            "and 7 s an object: the tenth of it, times ten, and in full where that was measured.",
        ),
        "",
        *_table(
            ["images x objects", "guide, before, s", "guide, after, s", "list scheduling, s", "ours, s", "in full, s"],
            _beside_the_guide(figures["scenarios"]),
        ),
    ]


def _beside_the_guide(scenarios: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    tenth = {(one["images"], one["objects"]): one for one in scenarios if one["object_s"] < 1}
    full = {(one["images"], one["objects"]): one for one in scenarios if one["object_s"] >= 1}

    def seconds(one: Mapping[str, Any] | None, scale: float) -> str:
        return "" if one is None else f"{scale * one['ideal_s'] * statistics.median(one['service']):.1f}"

    return [
        [
            f"{images} x {objects}",
            f"{before:,}",
            str(after),
            f"{SCALE * tenth[images, objects]['ideal_s']:.0f}",
            seconds(tenth[images, objects], SCALE),
            seconds(full.get((images, objects)), 1),
        ]
        for (images, objects), (before, after) in SEED.items()
        if (images, objects) in tenth
    ]


def fleet(state: State) -> list[str]:
    """Fleets, and how efficient they are."""
    figures = state["figures"]
    rows = []
    for one in figures["fleets"]:
        runs = one["runs"]
        ratio = Spread.of([run["seconds"] / run["ideal_s"] for run in runs])
        counted = Spread.of([run["by_count_s"] / run["ideal_s"] for run in runs])
        efficiency = Spread.of([run["ideal_s"] / run["seconds"] for run in runs])
        limit = figures["limits"].get(str(one["gpus"]))
        rows.append(
            [
                str(one["gpus"]),
                str(len(runs)),
                f"{one['mean_s']:g}",
                f"{statistics.median(run['ideal_s'] for run in runs):.1f}",
                ratio.shown(),
                "" if limit is None else f"{limit:.2f}",
                "" if limit is None else _verdict(ratio.median <= limit),
                counted.shown(),
                efficiency.shown(),
                f"{statistics.median(run['cores'] for run in runs):.2f}",
                f"{one['processes']}, {one['memory_mb'] / 1024:.1f} GiB",
            ]
        )
    return [
        *_prose(
            f"{figures['objects']} objects, {figures['each']} a photo, all published at once; log-normal times",
            f"(sigma {figures['sigma']:g}), drawn anew for each run, the same for all fleets but for the scale.",
            f"{figures['detectors']} detectors, {figures['image_ms']} ms a photo. Makespan by list scheduling of the",
            "same times: median of the runs (least to most). *By count* is computed:",
            "each object given away as soon as it is known, to the GPU with the fewest unfinished ones;",
            f"*efficiency* is list scheduling by makespan. *Cores*: how many of the {figures['cores']} were at work,",
            "the broker's and the models' included.",
        ),
        "",
        *_table(
            ["GPUs", "runs", "mean object, s", "list scheduling, s", "the service", "at most", ""],
            rows,
            ["by count", "efficiency", "cores", "processes, memory"],
        ),
        "",
        *_plot("fleet", "Efficiency against list scheduling, by number of GPUs"),
    ]


def busy(state: State) -> list[str]:
    """How busy the model is."""
    rows = []
    for size in state["figures"]["sizes"]:
        share, limit = Spread.of(size["shares"]), size["limit"]
        rows.append(
            [
                f"{size['seconds']:g}",
                f"{100 * share.median:.2f} ({100 * share.least:.2f} to {100 * share.most:.2f})",
                "" if limit is None else f"{100 * limit:.0f}",
                "" if limit is None else _verdict(share.median >= limit),
                f"{statistics.median(size['gaps_ms']):.1f}",
                f"{percentile(size['gaps_ms'], 99):.1f}",
                str(size["objects"]),
            ]
        )
    width, height = state["figures"]["photo"]
    return [
        *_prose(
            f"One reconstructor with a backlog, a photo of {width} x {height} for each object, by the model's own",
            "moments; a model that never waits would be at 100. Median of",
            f"{_runs(state['figures']['sizes'][0]['shares'])} (least to most).",
        ),
        "",
        *_table(
            ["object, s", "busy, %", "at least", "", "gap, ms: median", "99 %", "objects a run"],
            rows,
        ),
        "",
        *_plot("busy", "Share of the time that the model works"),
    ]


def latency(state: State) -> list[str]:
    """What is added to the models' time."""
    figures = state["figures"]
    rows = []
    for load in figures["loads"]:
        for percent, limit in figures["limits"].items():
            over = Spread.of([percentile(run, float(percent)) for run in load["ideal"]])
            beside = Spread.of([percentile(run, float(percent)) for run in load["model"]])
            rows.append(
                [
                    f"{load['name']} ({load['per_second']:.2g} images/s)",
                    f"p{percent}",
                    _milliseconds(over),
                    f"{1000 * limit:.0f}",
                    _verdict(over.median <= limit),
                    f"{1000 * percentile([one for run in load['ideal'] for one in run], float(percent)):.0f}",
                    _milliseconds(beside),
                ]
            )
    return [
        *_prose(
            f"A detector ({figures['image_ms']} ms a photo), {figures['gpus']} reconstructors",
            f"({figures['object_ms']} ms an object), {figures['objects']} objects a photo, {figures['images']}",
            "photos a run: evenly, or at random with half of the load that the GPUs can bear. From the publish to",
            "the completed event in a reader's hands, in ms: over list scheduling of the same moments, and over the",
            f"models' own time. Medians of {_runs(figures['loads'][0]['ideal'])} runs (least to most).",
        ),
        "",
        *_table(
            ["load", "", "over list scheduling", "at most", "", "... all runs together", "over the models' time"], rows
        ),
        "",
        *_plot("latency", "Milliseconds over list scheduling"),
    ]


HOWS = {"same": "bare loop, same transform", "bare": "bare loop, bare transform", "quix": "Quix Streams"}


def paths(state: State) -> list[str]:
    """Messages a second, and by how much."""
    figures = state["figures"]
    rows = []
    for what, hows in figures["rates"].items():
        rows.append([what, "the service", Spread.of(hows["service"]).shown(0), "", "", ""])
        for how in (how for how in HOWS if how in hows):
            ratio = Spread.of([ours / theirs for ours, theirs in zip(hows["service"], hows[how], strict=True)])
            limit = figures["limits"].get(how)
            rows.append(
                [
                    what,
                    HOWS[how],
                    Spread.of(hows[how]).shown(0),
                    ratio.shown(),
                    "" if limit is None else f"{limit:g}",
                    "" if limit is None else _verdict(ratio.median >= limit),
                ]
            )
    return [
        *_prose(
            f"A backlog of {figures['images']:,} images on {figures['partitions']} partitions, {figures['objects']}",
            f"objects each for the aggregator; the detector finds three in each, and has {figures['batch']} at once.",
            "One process after the other, in turn; records of the input a second by the committed offsets: median",
            f"of {_runs(next(iter(figures['rates'].values()))['service'])} (least to most). *Same transform*: what",
            "the group does with a record, checks against schemas included; *bare transform*: JSON parsed, and as",
            "many records of the same size written. Quix Streams and the bare transform join as one would write it",
            "first, without schemas, deadlines or duplicates.",
        ),
        "",
        *_table(["path", "", "records/s", "the service by it", "at least", ""], rows),
        "",
        *_plot("paths", "Records a second"),
    ]


def growth(state: State) -> list[str]:
    """Images in flight, and long topics."""
    figures = state["figures"]
    limits, lines = figures["limits"], []
    if flight := figures.get("flight"):
        largest = max(one["images"] for one in flight)
        rows = []
        for one in flight:
            each = 1024 * (one["full_mb"] - one["empty_mb"]) / one["images"]
            again = Spread.of(one["restored_s"])
            good = each <= limits["kb"] and again.median <= limits["restore_s"]
            rows.append(
                [
                    f"{one['images']:,}",
                    f"{one['full_mb']:.0f}",
                    f"{each:.2f}",
                    again.shown(2),
                    f"{statistics.median(one['restored_mb']):.0f}",
                    _verdict(good) if one["images"] == largest else "",
                ]
            )
        lines += [
            *_prose(
                f"The aggregator with so many images of {figures['objects']} objects in flight, {figures['results']}",
                f"result of each there. KB an image: RSS over that with 500 others; at most {limits['kb']:g}, and at",
                f"most {limits['restore_s']:g} s to restore the largest number. Median of",
                f"{_runs(flight[0]['restored_s'])} starts (least to most).",
            ),
            "",
            *_table(["images", "RSS, MiB", "KB an image", "restored in, s", "RSS then, MiB", ""], rows),
            "",
        ]
    if length := figures.get("length"):
        ratio = Spread.of(
            [long["rate"] / short["rate"] for long, short in zip(length["long"], length["short"], strict=True)]
        )
        short, long = (Spread.of([run["rate"] for run in length[name]]) for name in ("short", "long"))
        lines += [
            f"Its pace on a topic {length['times']} times as long, records/s: {short.shown(0)} at a backlog of "
            f"{length['images']:,} images,",
            f"{long.shown(0)} at {length['times'] * length['images']:,}: **{ratio.shown(2)}** of it.",
            "",
        ]
    return [*lines, *_plot("growth", "Memory and time to restore; pace along a long topic")]


SECTIONS: dict[str, tuple[str, Callable[[State], list[str]]]] = {
    "makespan": ("Makespan", makespan),
    "fleet": ("A fleet of GPUs, objects of all sizes", fleet),
    "busy": ("How busy the model is", busy),
    "latency": ("What is added to the models' time", latency),
    "paths": ("Messages a second, without models", paths),
    "growth": ("Growth", growth),
}
"""Heading and body of each benchmark's place."""


def section(state: State) -> str:
    """A benchmark's whole place in the page."""
    heading, body = SECTIONS[state["name"]]
    how = f"`{state['command']}`, {state['date']}; {state['machine']}, {state['versions']}."
    return "\n".join([f"## {heading}", how, "", *body(state)]).rstrip("\n") + "\n"


def rewritten(text: str, found: Mapping[str, State]) -> str:
    """The page with what was found in its places. Raises ValueError where a benchmark has no place."""
    for name, state in found.items():
        place = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        old = place.search(text)
        if old is None:
            raise ValueError(f"the page has no place for {name}")
        text = text[: old.start()] + old[1] + section(state) + old[2] + text[old.end() :]
    return text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], more: Sequence[str] = ()) -> list[str]:
    names = [*head, *more]
    return ["| " + " | ".join(line) + " |" for line in (names, ["---"] * len(names), *rows)]


def _prose(*parts: str) -> list[str]:
    return textwrap.wrap(" ".join(parts), WIDTH, break_on_hyphens=False)


def _plot(name: str, what: str) -> list[str]:
    return [f"![{what}](plots/{name}.png)", ""]


def _runs(values: Sequence[Any]) -> str:
    words = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
    return words.get(len(values), str(len(values)))


def _verdict(good: bool) -> str:
    return "reached" if good else "**missed**"


def _milliseconds(spread: Spread) -> str:
    return Spread(*(1000 * one for one in (spread.median, spread.least, spread.most))).shown(0)


def main() -> int:
    """Write the page and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=Path, default=states.FOLDER)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plots", type=Path, default=PLOTS)
    told = parser.parse_args()
    from tests.benchmarks import plots  # matplotlib: not for those who only want the text

    found = {name: state for name, state in states.load(told.states).items() if name in SECTIONS}
    if not found:
        print(f"{told.states} holds no figures: run a benchmark first")
        return 1
    told.plots.mkdir(parents=True, exist_ok=True)
    for name, state in found.items():
        plots.draw(state, told.plots / f"{name}.png")
    told.results.write_text(rewritten(told.results.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(f"{told.results}: {', '.join(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
