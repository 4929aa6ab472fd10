"""What is written so that an image is done again: the same events, under another run, with a time of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from stream_worker import topics
from stream_worker.contract import encode
from stream_worker.events import DetectionEvent, ImageEvent, ObjectEvent, object_id, utc_now
from stream_worker.headers import cloud_event
from stream_worker.records import Headers, Output

SOURCE = "replay"


def photo(event: ImageEvent, headers: Headers, run: str, *, recompute: bool) -> list[Output]:
    """The photo's own event: it is fetched and detected again."""
    again = event.model_copy(update={"run": run, "published_at": utc_now(), "recompute": recompute})
    return [Output(topics.IMAGES, again.image_id.encode(), encode(again), cloud_event(again, SOURCE, headers))]


def found(
    manifest: DetectionEvent,
    objects: Sequence[ObjectEvent],
    headers: Headers,
    run: str,
    *,
    recompute: bool,
    patience_s: float,
    partition: Callable[[], int],
) -> list[Output]:
    """What a detector found, as it would have written it under `run`: objects, each to `partition()`, and manifest.

    The image has `patience_s` to be completed. `objects` are all of the manifest's.
    """
    now = utc_now()
    moments = {"run": run, "published_at": now, "detected_at": now, "deadline_at": now + timedelta(seconds=patience_s)}
    outputs = []
    for one in sorted(objects, key=lambda work: work.index):
        identity = object_id(one.image_id, run, one.index)
        work = one.model_copy(update={**moments, "object_id": identity, "recompute": recompute})
        headed = cloud_event(work, SOURCE, headers)
        outputs.append(Output(topics.OBJECTS, identity.encode(), encode(work), headed, partition()))
    listed = [
        one.model_copy(update={"object_id": object_id(manifest.image_id, run, one.index)}) for one in manifest.objects
    ]
    again = manifest.model_copy(update={**moments, "objects": listed, "times": {}, "replay_of": manifest.run})
    headed = cloud_event(again, SOURCE, headers)
    return [*outputs, Output(topics.DETECTIONS, again.image_id.encode(), encode(again), headed)]
