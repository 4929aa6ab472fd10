"""What a reader is told of an image: a manifest and its results as one completed event."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from stream_worker.errors import Reason
from stream_worker.events import (
    CompletedImageEvent,
    DetectedObject,
    DetectionEvent,
    Failure,
    ObjectOutcome,
    ReconstructionEvent,
)

Status = Literal["complete", "partial", "failed"]

_LATE = Failure(code=Reason.DEADLINE, message="no result came before the image's deadline")
_NO_MANIFEST = Failure(code=Reason.DEADLINE, message="no manifest came before the image's deadline")
_NOT_SAID = "no reason was given"


def joined(
    status: Status,
    revision: int,
    manifest: DetectionEvent,
    results: Mapping[str, ReconstructionEvent],
    now: datetime,
) -> CompletedImageEvent:
    """The outcome of an image whose manifest is known; `results` by object_id. Objects are ordered by index."""
    objects = sorted(
        {named.object_id: _object(named, results.get(named.object_id)) for named in manifest.objects}.values(),
        key=lambda outcome: (outcome.index, outcome.object_id),
    )
    reason = manifest.reason or Failure(code=Reason.DETECT_FAILED, message=_NOT_SAID)
    return CompletedImageEvent(
        image_id=manifest.image_id,
        run=manifest.run,
        revision=revision,
        status=status,
        reason=reason if status == "failed" else None,
        image=manifest.image,
        objects=objects if status != "failed" else [],
        detector=manifest.detector,
        published_at=manifest.published_at,
        completed_at=now,
        times=_times(manifest, results.values(), now),
        metadata=manifest.metadata,
    )


def without_manifest(
    revision: int, image_id: str, run: str, published_at: datetime, now: datetime
) -> CompletedImageEvent:
    """The outcome of an image whose manifest had not come by the deadline, though results had."""
    return CompletedImageEvent(
        image_id=image_id,
        run=run,
        revision=revision,
        status="failed",
        reason=_NO_MANIFEST,
        objects=[],
        published_at=published_at,
        completed_at=now,
        times={"total_s": _between(published_at, now)},
    )


def unwritable(outcome: CompletedImageEvent, why: str) -> CompletedImageEvent:
    """What is published instead of an outcome that no record can hold: failed, without what made it so large."""
    return outcome.model_copy(
        update={
            "status": "failed",
            "reason": Failure(code=Reason.EVENT_TOO_LARGE, message=why[:1000]),
            "objects": [],
            "metadata": None,
            "detector": None,
            "times": {"total_s": _between(outcome.published_at, outcome.completed_at)},
        }
    )


def _object(named: DetectedObject, result: ReconstructionEvent | None) -> ObjectOutcome:
    """One object. What it is and where comes from the manifest, what became of it from its result."""
    if result is None:
        return ObjectOutcome(**dict(named), status="missing", reason=_LATE)
    failed = result.status == "failed"
    return ObjectOutcome(
        **dict(named),
        status=result.status,
        reason=(result.reason or Failure(code=Reason.RECONSTRUCT_FAILED, message=_NOT_SAID)) if failed else None,
        ply=None if failed else result.ply,
        glb=None if failed else result.glb,
        points=None if failed else result.points,
        geometry=None if failed else result.geometry,
        model=result.model,
        reused=result.reused,
        times=result.times,
    )


def _times(manifest: DetectionEvent, results: Iterable[ReconstructionEvent], now: datetime) -> dict[str, float]:
    """Seconds: `total_s` from publishing to completing, `detected_s` from publishing to the manifest, the
    detector's own as `detector_...`, and the reconstructor's summed over the objects as `reconstructor_...`."""
    times = {
        "total_s": _between(manifest.published_at, now),
        "detected_s": _between(manifest.published_at, manifest.detected_at),
        **{f"detector_{name}": seconds for name, seconds in manifest.times.items()},
    }
    for result in results:
        for name, seconds in result.times.items():
            times[f"reconstructor_{name}"] = times.get(f"reconstructor_{name}", 0.0) + seconds
    return {name: seconds for name, seconds in times.items() if math.isfinite(seconds)}


def _between(start: datetime, end: datetime) -> float:
    """Seconds, never negative: the publisher's clock may be ahead of ours."""
    return max(0.0, (end - start).total_seconds())
