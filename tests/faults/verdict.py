"""What a run must have shown: three verifiers of the guarantees, and the figures with their limits."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stream_worker.errors import Reason
from stream_worker.events import CompletedImageEvent
from tests.faults.faults import KILL, KILL_MODEL, KINDS
from tests.faults.figures import Growth, Resumed, drained_s, growth, resumed
from tests.faults.harness import Outcome as Run
from tests.faults.plan import Outcome, outcome
from tests.faults.profiles import SESSION_S

DRAINED_S = 120.0
RESUMED_S = SESSION_S + 10.0
GROWTH = 1.10
STARTING_S = 3.0
"""A worker that has lived less is still on its way into its group."""
NAMED = 5
"""Most examples of a difference that are named."""


@dataclass(frozen=True)
class Verdict:
    """`broken`: guarantees that did not hold. `missed`: figures that were not reached. Both empty: all well."""

    broken: list[str]
    missed: list[str]
    figures: dict[str, Any]
    """JSON-able: everything that was measured."""


def judged(run: Run) -> Verdict:
    """Look at everything that the run showed."""
    killed = sum(hit.kind == KILL_MODEL for hit in run.hits)
    broken = [
        *differences("live reader", run.live, run.planned.expected, killed),
        *differences("fresh reader", run.fresh, run.planned.expected, killed),
        *_audited(run),
    ]
    drained = drained_s(run.samples, run.visible, run.over)
    stood = resumed(run.hits, run.samples, run.commits, run.visible, run.stumbles)
    grown = growth(run.lives)
    kills = sum(hit.kind == KILL for hit in run.hits)
    missed = [*_late(drained, stood), *_grown(grown), *run.troubles]
    if kills < run.profile.least_kills:
        missed.append(f"{kills} kills landed, {run.profile.least_kills} were wanted")
    if not run.profile.limits:
        missed = list(run.troubles)
    return Verdict(broken, missed, _figures(run, drained, stood, grown))


def differences(
    who: str, events: Sequence[CompletedImageEvent], expected: Mapping[str, Outcome], models_killed: int = 0
) -> list[str]:
    """How the outcomes differ from exactly the expected ones, once each.

    What hangs its model has two tries. Where the harness kills the model in the second, before its deadline, the reason
    is rightly that it crashed: once for each model that was killed at most.
    """
    counts = Counter((event.image_id, event.run, event.revision) for event in events)
    wanted = Counter((image_id, "live", 1) for image_id in expected)
    found = []
    if missing := wanted - counts:
        found.append(f"{who}: {missing.total()} outcomes missing: {_some(missing)}")
    if surplus := counts - wanted:
        found.append(f"{who}: {surplus.total()} outcomes too many: {_some(surplus)}")
    others = {}
    for event in events:
        wanted_one = expected.get(event.image_id)
        found_one = outcome(event)
        if wanted_one is None or found_one == wanted_one:
            continue
        if models_killed > 0 and _but_for_a_killed_model(found_one, wanted_one):
            models_killed -= 1
        else:
            others[event.image_id] = found_one, wanted_one
    if others:
        shown = {image_id: others[image_id] for image_id in sorted(others)[:NAMED]}
        found.append(f"{who}: {len(others)} outcomes are not what they must be: {shown}")
    return found


def _but_for_a_killed_model(found: Outcome, wanted: Outcome) -> bool:
    """Whether all that differs is one thing that crashed where it should have hung."""
    if found.status != wanted.status or found.objects.keys() != wanted.objects.keys():
        return False
    reasons = [(found.reason, wanted.reason), *((found.objects[one], wanted.objects[one]) for one in found.objects)]
    different = [pair for pair in reasons if pair[0] != pair[1]]
    return different == [(Reason.MODEL_CRASHED.value, Reason.MODEL_TIMEOUT.value)]


def _some(counts: Counter[Any]) -> str:
    return ", ".join(str(one) for one in sorted(counts)[:NAMED])


def _audited(run: Run) -> list[str]:
    report, expected = run.audit.plain(), run.planned.statuses
    found = [] if run.audit.holds else [f"audit: {report['violations']}"]
    images = run.audit.images
    said = {"complete": images.complete, "partial": images.partial, "failed": images.failed}
    if Counter(said) != Counter({status: expected[status] for status in said}):
        found.append(f"audit: counts {said}, {dict(expected)} were published")
    return found


def _late(drained: float | None, stood: Sequence[Resumed]) -> list[str]:
    found = []
    if drained is None or drained > DRAINED_S:
        found.append(f"lag 0 {drained} s after the last fault, {DRAINED_S:.0f} are allowed")
    late = [one for one in stood if not one.beside and (one.seconds is None or one.seconds > RESUMED_S)]
    if late:
        shown = ", ".join(f"{one.target} at {one.at:.0f} s: {one.seconds} s" for one in late[:NAMED])
        found.append(f"{len(late)} kills after which partitions stood for more than {RESUMED_S:.0f} s: {shown}")
    return found


def _grown(grown: Sequence[Growth]) -> list[str]:
    over = [one for one in grown if one.ratio > GROWTH]
    return [
        f"memory of {one.worker}{' (a child)' if one.child else ''} grew from {one.second_mb:.0f} to {one.last_mb:.0f} "
        f"MiB in {one.lived_s:.0f} s"
        for one in over
    ]


def _figures(run: Run, drained: float | None, stood: Sequence[Resumed], grown: Sequence[Growth]) -> dict[str, Any]:
    report = run.audit.plain()
    landed = Counter(hit.kind for hit in run.hits)
    return {
        "events": len(run.planned.events),
        "images": len(run.planned.expected),
        "objects": run.planned.objects,
        "statuses": dict(run.planned.statuses),
        "seconds": round(run.seconds),
        "nodes": run.profile.nodes,
        "landed": {kind: landed[kind] for kind in KINDS},
        "missed_steps": run.missed,
        "kills_in_work": len(stood),
        "kills_while_starting": sum(hit.age_s is not None and hit.age_s < STARTING_S for hit in run.hits),
        "troubles": list(run.troubles),
        "restarts": dict(run.starts),
        "live": len(run.live),
        "fresh": len(run.fresh),
        "audit": {"images": report["images"], "blobs": report["blobs"], "dead_letters": report["dead_letters"]},
        "drained_s": drained,
        "samples": len(run.samples),
        "widest_gap_s": round(_widest_gap(run), 1),
        "resumed": {
            "alone": _spread([one for one in stood if not one.beside]),
            "beside": _spread([one for one in stood if one.beside]),
            "each": [[one.at, one.target, one.partitions, one.seconds, list(one.beside)] for one in stood],
        },
        "memory": {
            "judged": len(grown),
            "processes": len(run.lives),
            "spared": {
                f"{one.worker}{' child' if one.child else ''}": [one.second_mb, one.last_mb, one.ratio]
                for one in grown
                if one.worker in run.profile.spared
            },
            "most": [[one.worker, one.child, one.lived_s, one.ratio] for one in grown[:NAMED]],
        },
    }


def _spread(stood: Sequence[Resumed]) -> dict[str, Any]:
    seconds = sorted(one.seconds for one in stood if one.seconds is not None)
    return {
        "kills": len(stood),
        "never": sum(one.seconds is None for one in stood),
        "over": sum(one.seconds is None or one.seconds > RESUMED_S for one in stood),
        "median_s": round(statistics.median(seconds), 1) if seconds else None,
        "max_s": seconds[-1] if seconds else None,
    }


def _widest_gap(run: Run) -> float:
    """The longest time without a sample of the offsets: no resumption can be seen in it."""
    pairs = zip(run.samples, run.samples[1:], strict=False)
    return max((later.ended - sooner.ended for sooner, later in pairs), default=0.0)
