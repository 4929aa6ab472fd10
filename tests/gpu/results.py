"""The page of what was found: `python -m tests.gpu.results FLOPS.txt FOUND.json [OTHER_RUN.json...] > RESULTS.md`.

Only what was found in one run is compared: hosts of the same kind of GPU differ by a third.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.gpu.one import PHASES

SAID = {
    "upstream": "upstream's code as it is, the guide's settings (15/8 steps, Gaussians)",
    "upstream compiled": "the same with torch.compile",
    "upstream defaults": "upstream's code and its defaults (25/25 steps, Gaussians and mesh, no GLB made)",
    "ours": "ours: the guide's settings, exact savings, CUDA graphs, our writer",
    "step cache": "ours with `step_cache = 1`",
    "all formats": "ours with `mesh = true`: Gaussians and mesh, no GLB made",
}


def page(found: dict[str, Any], flops: str, others: Iterable[dict[str, Any]] = ()) -> str:
    machine, rows = found["machine"], found["rows"]
    lines = [
        "# SAM 3D Objects on a GPU",
        "",
        f"{machine['gpu']}, {machine['cores']} cores, torch {machine['torch']}, Python {machine['python']}, "
        f"spconv-cu126 2.3.8, {machine['date']}. Upstream's modules at cf06676 with the published configurations (as "
        "public forks have them: photos of 518 pixels, stage 2's guidance 1) and random weights; a shell of voxels is "
        "forced; flash attention is PyTorch's. Made by `python -m tests.gpu.measure`, [upstream.py](upstream.py) says "
        "what it needs. Medians, in seconds; each row a process of its own.",
        "",
        "Upstream's rows: an object's parts one after the other, as its code does them, its file by its `save_ply`. "
        "Ours: from one object to the next of a backlog, in the service's own host (`models/host.py`) with its child: "
        "pre-processing and file (by our writer, into shared memory) run beside the objects before and after.",
        "",
        *_table(rows),
    ]
    lines += ["", *_ratios(rows), "", *_whole_gpu(rows), "", *_host(rows), "", *_savings(rows), "", *_guide(rows)]
    for other in others:
        if "service" in other:
            lines += ["", *_service(other)]
            continue
        before = f", {other['note']}" if "note" in other else ""
        lines += [
            "",
            f"Another run, {other['machine']['date']}, {other['machine']['gpu']}, a host of another speed{before}:",
            "",
            *_table(other["rows"], all_rows=False),
            "",
        ]
        lines += [
            *_ratios(other["rows"]),
            *_whole_gpu(other["rows"]),
            "",
            *_host(other["rows"]),
            "",
            *_guide(other["rows"]),
        ]
    if flops:
        lines += [
            "",
            "FLOPs, counted on a CPU without the weights (`python -m tests.gpu.flops`):",
            "",
            "```",
            flops,
            "```",
        ]
    lines += ["", *NOT_MEASURED]
    return "\n".join(lines) + "\n"


NOT_MEASURED = (
    "Not measured: real weights (gated; what the step cache does to shapes is therefore not known here), MoGe (its "
    "weights can't be had here), GLB, texture baking and mesh post-processing (their packages were not on this "
    "machine), upstream's own writer in the row with torch.compile.",
)


def whole_s(one: dict[str, Any]) -> float:
    """An object's time: of upstream's code all of its parts, of ours from one to the next."""
    if "period_s" in one and "upstream_ply_s" not in one:
        return float(one["period_s"])
    parts = sum(float(one[f"{phase}_s"]) for phase in PHASES) + float(one.get("ahead_s", 0.0))
    return parts + float(one.get("upstream_ply_s", one["write_s"]))


def _table(rows: dict[str, Any], *, all_rows: bool = True) -> Iterable[str]:
    """Seconds phase by phase; with `all_rows` also of what was not measured, and why."""
    yield "| | voxels | pre-processing | conditioning | stage 1 | stage 2 | decoding | file | object | peak GB |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, said in SAID.items():
        row = rows.get(name, {"not measured": "no such row in this run"})
        if "not measured" not in row:
            yield from (_line(said, one) for one in row["objects"])
        elif all_rows:
            yield f"| {said} | | not measured: {row['not measured']} | | | | | | | |"


def _line(said: str, one: dict[str, Any]) -> str:
    before = one.get("ahead_s", 0.0) + one["pointmap_s"] + one["preprocess_s"]
    cells = (
        before,
        *(one[f"{phase}_s"] for phase in PHASES[2:]),
        one.get("upstream_ply_s", one["write_s"]),
        whole_s(one),
    )
    shown = " | ".join(f"{cell:.3f}" for cell in cells)
    return f"| {said} | {one['voxels']} | {shown} | {one['peak_gb']:.1f} |"


def _ratios(rows: dict[str, Any]) -> Iterable[str]:
    def of(name: str) -> float | None:
        row = rows.get(name, {})
        return whole_s(row["objects"][0]) if "objects" in row else None

    ours = of("ours")
    if ours is None:
        return
    for name, said in (
        ("upstream", "upstream at the guide's settings"),
        ("upstream compiled", "the same with torch.compile and our writer, pre-processing and file beside"),
        ("upstream defaults", "upstream's defaults"),
    ):
        theirs = of(name)
        if theirs is not None:
            gain = f"**{theirs / ours:.1f} times**"
            yield f"- One model, 20k voxels: {theirs:.2f} s for {said}, {ours:.2f} s for ours: {gain}."
    one = rows.get("upstream", {}).get("objects", [None])[0]
    if one is not None:
        theirs = whole_s(one) - one["upstream_ply_s"] + one["write_s"]
        yield f"- With our writer in both, the rest gains {theirs / ours:.1f} times."
        compiled = rows.get("upstream compiled", {}).get("objects", [None])[0]
        if compiled is not None:
            theirs = whole_s({**compiled, "upstream_ply_s": one["upstream_ply_s"]})
            yield f"- With torch.compile, and upstream's writer as above, {theirs:.2f} s: {theirs / ours:.1f} times."
    cached = of("step cache")
    if cached is not None:
        yield f"- The step cache gains {ours / cached:.2f} times on top."


def _whole_gpu(rows: dict[str, Any]) -> Iterable[str]:
    base = rows.get("upstream", {}).get("objects", [None])[0]
    for name, row in rows.items():
        if "children" not in row:
            continue
        if any("not measured" in child for child in row["children"]):
            yield f"- {name} on one GPU: not measured: {row['children'][0].get('not measured', 'one of them failed')}"
            continue
        each = [child["objects"][0] for child in row["children"]]
        rate = sum(one["objects"] / one["seconds"] for one in each)
        alone = statistics.median(one.get("period_s", one.get("object_s")) for one in each)
        line = f"- {name} on one GPU: an object every {1 / rate:.2f} s ({alone:.2f} s each)"
        line += f", **{whole_s(base) * rate:.2f} times** upstream at the guide's settings" if base else ""
        if base and (compiled := rows.get("upstream compiled", {}).get("objects")):
            theirs = whole_s({**compiled[0], "upstream_ply_s": base["upstream_ply_s"]})
            line += f", {theirs * rate:.1f} times with torch.compile and upstream's writer"
        yield line + "."


def _host(rows: dict[str, Any]) -> Iterable[str]:
    row = rows.get("ours", {})
    for one in row.get("objects", [])[:1]:
        if "period_s" not in one:
            continue
        # By the child's own clock, where it said so: the difference of two medians may be less than nothing.
        waits = ("to_next_task_s", "to_work_s")
        gap = sum(one[wait] for wait in waits) if waits[0] in one else one["period_s"] - one["busy_s"]
        share = gap / one["period_s"]
        own = sum(float(one[f"{phase}_s"]) for phase in PHASES)
        # Object by object, where that is known: a sum of medians is less than the median of sums where a host is noisy.
        beyond = one.get("beyond_share", one["period_s"] / own - 1)
        yield (
            f"From one object of the backlog to the next: {1000 * gap:.0f} ms, {share:.1%} of an object's time. With "
            f"what the adapter does beside the model's own phases, {beyond:.1%} of theirs."
        )
    for killed in row.get("killed", []):
        yield ""
        yield (
            f"A child killed in stage 2: `{killed['said']}`. The next object began {killed['next_object_after_s']:.1f} "
            f"s later in child {killed['generation']}, which took {killed['loaded_in_s']:.1f} s to load and warm up."
        )


def _guide(rows: dict[str, Any]) -> Iterable[str]:
    """The guide's gains (`../shared/seed/README.md`) beside those of this run, as far as it has both rows."""
    one = {name: row["objects"][0] for name, row in rows.items() if row.get("objects")}
    found = []
    if {"upstream", "upstream defaults"} <= one.keys():
        stages = [one["upstream defaults"][stage] / one["upstream"][stage] for stage in ("stage1_s", "stage2_s")]
        found += [
            f"S5.3, stage 1 from 25 to 15 steps: the guide 1.47 times, here {stages[0]:.2f} times",
            f"S5.3, stage 2: the guide 15 to 20 % from 12 to 8 steps, here {stages[1]:.2f} times from 25 to 8",
        ]
    if "upstream" in one and "ours" in one:
        gain = one["upstream"]["upstream_ply_s"] / one["ours"]["write_s"]
        found.append(
            f"S5.4, the PLY: the guide 50 % faster than as text, here {gain:.0f} times faster than upstream's binary"
        )
    if {"ours", "all formats"} <= one.keys():
        more = one["all formats"]["decode_s"] - one["ours"]["decode_s"]
        found.append(
            "S5.6, Gaussians only: the guide 37.4 %, here "
            f"{more / whole_s(one['all formats']):.1%} (decoding; no GLB made)"
        )
    if {"upstream", "upstream compiled"} <= one.keys():
        phases = [sum(one[name][f"{phase}_s"] for phase in PHASES) for name in ("upstream compiled", "upstream")]
        found.append(
            f"S5.8, torch.compile: the guide 10 to 20 %, here {1 - phases[0] / phases[1]:.0%} of upstream's phases"
        )
    if found:
        yield "The guide's gains, and these: " + "; ".join(found) + "."


def _service(found: dict[str, Any]) -> Iterable[str]:
    machine, one = found["machine"], found["service"]
    beyond = one["period_s"] - one["own_s"]
    yield (
        f"The whole service, {machine['gpu']}, {machine['date']} (`python -m tests.gpu.service`): a worker of the "
        f"reconstructor group on a private Kafka and a store, a backlog of {one['objects']} objects of {one['voxels']} "
        "voxels, each on a photo of its own. Medians:"
    )
    yield ""
    yield f"- an object takes {one['period_s']:.3f} s from its begin to the next one's;"
    yield (
        f"- the model's own phases take {one['own_s']:.3f} s of it: adapter and service add "
        f"**{beyond / one['own_s']:.1%}**;"
    )
    yield (
        f"- between two objects the model waits {1000 * one['gap_s']:.1f} ms ({1000 * one['least_gap_s']:.1f} to "
        f"{1000 * one['most_gap_s']:.1f} ms): the GPU is idle for **{one['idle_share']:.1%}** of an object's time."
    )


def _savings(rows: dict[str, Any]) -> Iterable[str]:
    notes = rows.get("ours", {}).get("notes", [])
    if notes:
        yield "The savings against upstream's own arithmetic, in half precision, as the child said at its start:"
        yield ""
        yield from (f"- {note}" for note in notes)


if __name__ == "__main__":
    runs = [json.loads(Path(name).read_text()) for name in sys.argv[2:]]
    print(page(runs[0], Path(sys.argv[1]).read_text().strip(), runs[1:]), end="")
