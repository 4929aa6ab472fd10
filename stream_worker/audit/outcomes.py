"""What an outcome owes its reader, by itself and against its manifest: pure comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from stream_worker.errors import Reason
from stream_worker.events import CompletedImageEvent

NAMED = 3
"""Most object ids that a difference names."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is kept of an outcome to judge it later: a fraction of the event. Times in ms since 1970."""

    image_id: str
    run: str
    revision: int
    status: Literal["complete", "partial", "failed"]
    code: str
    completed_ms: int
    objects: dict[bytes, tuple[int, str]]
    """Index and status by object id."""


def said(event: CompletedImageEvent) -> Said:
    """What an outcome says."""
    return Said(
        image_id=event.image_id,
        run=event.run,
        revision=event.revision,
        status=event.status,
        code=event.reason.code if event.reason is not None else "",
        completed_ms=int(event.completed_at.timestamp() * 1000),
        objects={bytes.fromhex(one.object_id): (one.index, one.status) for one in event.objects},
    )


def contradictions(event: CompletedImageEvent) -> Iterator[str]:
    """Where an outcome contradicts itself, or leaves out why: the status against the objects and the reasons."""
    revision = f"revision {event.revision}"
    if event.status == "failed":
        if event.reason is None:
            yield f"{revision} failed without a reason"
        if event.objects:
            yield f"{revision} failed, and has {len(event.objects)} objects"
        return
    undone = [one for one in event.objects if one.status != "reconstructed"]
    if event.status == "complete" and undone:
        yield f"{revision} is complete, and {len(undone)} of its objects are not"
    if event.status == "partial" and not undone:
        yield f"{revision} is partial, and all of its objects are reconstructed"
    silent = [one for one in undone if one.reason is None]
    if silent:
        yield f"{revision}: {len(silent)} objects are not reconstructed, and nothing says why"
    empty = [one for one in event.objects if one.status == "reconstructed" and one.ply is None]
    if empty:
        yield f"{revision}: {len(empty)} objects are reconstructed, and name no PLY"
    if len({one.object_id for one in event.objects}) != len(event.objects):
        yield f"{revision} names an object twice"


def differences(
    said: Said,
    manifest: Literal["detected", "failed"],
    expected: frozenset[bytes],
    *,
    manifest_seen: bool,
) -> Iterator[str]:
    """Where an outcome's objects are not the manifest's (`expected`: their ids).

    `manifest_seen`: whether the join must have seen the manifest by now, so that an outcome for want of one is stale.
    """
    revision = f"revision {said.revision}"
    if said.status == "failed":
        if manifest == "detected" and said.code == Reason.DEADLINE and manifest_seen:
            yield f"{revision} failed for want of a manifest, which is there"
        elif manifest == "detected" and said.code not in (Reason.DEADLINE, Reason.EVENT_TOO_LARGE):
            yield f"{revision} failed, and the manifest has {len(expected)} objects"
        return
    if manifest == "failed":
        yield f"{revision} is {said.status}, and the manifest failed"
        return
    there = frozenset(said.objects)
    if lost := expected - there:
        yield f"{revision} lacks {len(lost)} of the manifest's objects: {_named(lost)}"
    if added := there - expected:
        yield f"{revision} has {len(added)} objects that the manifest lacks: {_named(added)}"


def _named(ids: frozenset[bytes]) -> str:
    shown = [one.hex() for one in sorted(ids)[:NAMED]]
    return ", ".join(shown) + (", ..." if len(ids) > NAMED else "")
