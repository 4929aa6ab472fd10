"""RESULTS.md: the last runs as a page, from what each seed left in its state file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.faults.faults import KILL, KILL_MODEL, KINDS, NODE_KILL, NODE_STOP, NODE_TERM, ZOMBIE
from tests.faults.verdict import DRAINED_S, GROWTH, RESUMED_S

State = Mapping[str, Any]
"""Of one seed: seed, date, versions, machine, command, logs, broken, missed and figures."""

NAMES = {
    KILL: "workers killed",
    KILL_MODEL: "models killed",
    ZOMBIE: "zombies",
    NODE_KILL: "nodes killed",
    NODE_TERM: "nodes terminated",
    NODE_STOP: "nodes stopped",
}
MORE = ["kills with work in the worker's group", "kills of a worker still starting", "found nobody"]


def page(states: Sequence[State]) -> str:
    """The whole page; `states` in the order of the seeds. A run that broke off has no figures, only its failure."""
    ran = [state for state in states if state["figures"] is not None]
    return "\n".join(
        [
            "# Last results of the long fault run",
            "",
            *_how(states[0], ran),
            "",
            "## Guarantees",
            "Every image must have exactly one outcome, with exactly its objects and the reason of each that failed,",
            "to a reader that was there all the time, to one that came after, and to `stream-worker audit`.",
            "",
            *_table(
                [
                    "seed",
                    "events",
                    "images",
                    "objects",
                    "live reader",
                    "fresh reader",
                    "accepted",
                    "terminal",
                    "missing",
                ],
                ["duplicated", "dangling blobs", "dead letters", "seconds", "verdict"],
                map(_guarantees, ran),
            ),
            "",
            "## Faults that landed",
            "A fault has landed when it hit a process that lived while images had no outcome yet.",
            "",
            *_table(["seed", *(NAMES[kind] for kind in KINDS)], MORE, map(_landed, ran)),
            "",
            "## Figures",
            f"Lag 0 (at most {DRAINED_S:.0f} s): from the end of the last fault, or of publishing where that is later.",
            f"A killed worker's partitions resume (at most {RESUMED_S:.0f} s): from the kill until the committed",
            "offset of every partition in which the group had work has moved, by the clock of the group's coordinator",
            "(`tests/faults/commits.py`). *Alone*: no other fault of the group (a worker, a model that was killed, or",
            "that poison crashed or hung) or of a broker node was going on, or just over. *Beside*: there was; shown,",
            "not judged.",
            f"Memory (at most x {GROWTH:.2f}): the median of the last quarter of a process's life over that of the",
            "second, for every process that lived two minutes; `-0` of each group is never hit: it lives all the time.",
            "",
            *_table(
                ["seed", "lag 0, s", "alone: kills", "median, s", "max, s", "beside: kills", "median, s", "max, s"],
                ["over limit", "widest gap of samples, s", "memory: processes", "worst ratio", "figures"],
                map(_figures, ran),
            ),
            "",
            *_memory(ran),
            *_failures(states),
            "The rebalance storm has a benchmark of its own: [its figures](../benchmarks/RESULTS.md).",
            "",
            "## Not measured",
            "- Memory of model processes that poison or kills end within two minutes of their start, and the brokers'.",
            "- Faults of the object store (a folder here) and of the network between clients and nodes: they have",
            "  tests of their own, `tests/faults/test_*.py`.",
            "- Which partitions have work is seen once a second, and not while no node answers (see the widest gap).",
            "",
        ]
    )


def _how(first: State, ran: Sequence[State]) -> list[str]:
    dates = ", ".join(sorted({state["date"] for state in (first, *ran)}))
    nodes = max((state["figures"]["nodes"] for state in ran), default=0)
    kafka = f"{nodes} Kafka nodes (KRaft), replication 3, min ISR 2" if nodes > 1 else "One Kafka node"
    return [
        f"`make faults`, {dates}: {first['versions']}; {first['machine']}.",
        f"{kafka}; 2 detectors, 3 reconstructors, 2 aggregators with stub models ({first['object_ms']} ms an object).",
        "1 % of the images and of the objects are poison (refused, crashing or hanging), 20 % of the image events",
        f"come twice. Events are published evenly over {first['publish_s']:.0f} s. Workers are restarted after "
        f"{first['restart_s']:.0f} s.",
        "`make faults SEED=n` repeats a seed's plan and schedule.",
    ]


def _table(head: Sequence[str], more: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    names = [*head, *more]
    lines = [names, ["---"] * len(names), *([_cell(one) for one in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _cell(value: Any) -> str:
    return "none" if value is None else str(value).replace("|", "/").replace("\n", " ")


def _guarantees(state: State) -> list[Any]:
    figures = state["figures"]
    images, blobs = figures["audit"]["images"], figures["audit"]["blobs"]
    letters = sum(sum(some.values()) for some in figures["audit"]["dead_letters"].values())
    return [
        *(state["seed"], figures["events"], figures["images"], figures["objects"], figures["live"], figures["fresh"]),
        *(images["accepted"], images["terminal"], images["missing"], images["duplicated"]),
        *(blobs["missing"] + blobs["wrong"], letters, figures["seconds"]),
        "FAILED" if state["broken"] else "exactly the expected outcomes",
    ]


def _landed(state: State) -> list[Any]:
    landed = state["figures"]["landed"]
    more = [state["figures"][name] for name in ("kills_in_work", "kills_while_starting", "missed_steps")]
    return [state["seed"], *(landed[kind] for kind in KINDS), *more]


def _figures(state: State) -> list[Any]:
    figures = state["figures"]
    alone, beside, memory = figures["resumed"]["alone"], figures["resumed"]["beside"], figures["memory"]
    return [
        *(state["seed"], figures["drained_s"]),
        *(alone["kills"], alone["median_s"], alone["max_s"], beside["kills"], beside["median_s"], beside["max_s"]),
        *(f"{alone['over']} alone, {beside['over']} beside", figures["widest_gap_s"], memory["judged"]),
        memory["most"][0][3] if memory["most"] else None,
        "FAILED" if state["missed"] else "reached",
    ]


def _memory(states: Sequence[State]) -> list[str]:
    lines = ["Memory of those that were never hit, MiB in the second and in the last quarter:", ""]
    for state in states:
        spared = state["figures"]["memory"]["spared"]
        shown = ", ".join(f"{name} {second:.0f} to {last:.0f}" for name, (second, last, _) in sorted(spared.items()))
        lines.append(f"- seed {state['seed']}: {shown or 'none lived long enough'}")
    return [*lines, ""]


def _failures(states: Sequence[State]) -> list[str]:
    failed = [state for state in states if state["broken"] or state["missed"]]
    if not failed:
        return []
    lines = ["## What failed"]
    for state in failed:
        lines.append(f"- seed {state['seed']} (`{state['command']}`, logs: `{state['logs']}`):")
        lines += [f"  - {_cell(one)[:600]}" for one in (*state["broken"], *state["missed"])]
    return [*lines, ""]
