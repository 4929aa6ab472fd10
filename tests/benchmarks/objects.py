"""Object events for benchmarks of the reconstructor: of no photo that a detector has seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stream_worker.events import BlobRef, Mask, Model, ObjectEvent, PhotoRef, object_id, utc_now
from stream_worker.geometry import masks


def object_event(number: int, photo: BlobRef, mask: NDArray[np.bool_]) -> ObjectEvent:
    """The only object of image `number`: what lies under the mask (height, width) of a stored photo of that size."""
    height, width = mask.shape
    image_id, now = f"image-{number}", utc_now()
    encoded = masks.encode(mask)
    return ObjectEvent(
        object_id=object_id(image_id, "live", 0),
        image_id=image_id,
        run="live",
        index=0,
        count=1,
        image=PhotoRef(**photo.model_dump(), width=width, height=height),
        label="box",
        confidence=0.9,
        box=list(masks.box(encoded)),
        mask=Mask(**encoded),
        area_px=int(mask.sum()),
        detector=Model(name="none", version="1"),
        published_at=now,
        detected_at=now,
        deadline_at=now,
    )
