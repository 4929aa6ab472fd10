"""The join as one would write it first: no schemas, no deadlines, no duplicates, no revisions. Only for comparison.

Standard library only: it also runs inside the environment of Quix Streams.
"""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]
State = dict[str, Any]


def taken(state: State | None, event: Event) -> tuple[State, Event | None]:
    """The state of an image after one of its events, and its outcome where that was the last one."""
    state = state or {"manifest": None, "results": {}}
    if "objects" in event:
        state["manifest"] = event
    else:
        state["results"][event["object_id"]] = event
    manifest = state["manifest"]
    if manifest is None or len(state["results"]) < len(manifest["objects"]):
        return state, None
    return state, outcome(manifest, state["results"])


def outcome(manifest: Event, results: dict[str, Event]) -> Event:
    """The completed event: the manifest's objects, each with what its result says."""
    objects = []
    times = {f"detector_{name}": seconds for name, seconds in manifest["times"].items()}
    for named in manifest["objects"]:
        result = results[named["object_id"]]
        objects.append(
            {
                **named,
                "status": result["status"],
                "ply": result["ply"],
                "geometry": result["geometry"],
                "model": result["model"],
                "reused": result["reused"],
                "times": result["times"],
            }
        )
        for name, seconds in result["times"].items():
            times[f"reconstructor_{name}"] = times.get(f"reconstructor_{name}", 0.0) + seconds
    return {
        "version": 1,
        "image_id": manifest["image_id"],
        "run": manifest["run"],
        "revision": 1,
        "status": "complete",
        "image": manifest["image"],
        "objects": objects,
        "detector": manifest["detector"],
        "published_at": manifest["published_at"],
        "completed_at": manifest["detected_at"],
        "times": times,
    }
