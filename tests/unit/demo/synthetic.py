"""A run as the service would have brought it about, made from rendered rooms and their exact masks."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from stream_worker import events
from stream_worker.demo.record import RunRecord
from stream_worker.demo.results import file_name
from stream_worker.geometry import masks
from stream_worker.models.silhouette import reconstruct
from stream_worker.scenes import render

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DEADLINE = START + timedelta(hours=1)
MODEL = events.Model(name="silhouette", version="1")


def later(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def photo_ref(path: Path, width: int, height: int) -> events.PhotoRef:
    data = path.read_bytes()
    sha = hashlib.sha256(data).hexdigest()
    return events.PhotoRef(
        key=f"images/{sha}", sha256=sha, size=len(data), media_type="image/jpeg", width=width, height=height
    )


class Synthetic:
    """Builds a RunRecord; `plys` holds the bytes behind every BlobRef of a result, by sha256."""

    def __init__(self, folder: Path, run: str = "demo") -> None:
        self.folder = folder
        self.record = RunRecord(run, {})
        self.plys: dict[str, bytes] = {}
        self._clock = 0.0
        self._taken: set[str] = set()

    def room(self, image_id: str, seed: int, width: int = 320, height: int = 240, objects: int | None = None) -> None:
        """Add a photo that went all the way."""
        scene = render(seed, width, height, objects)
        path = self.folder / f"photo-{len(self.record.photos)}.jpg"
        Image.fromarray(scene.rgb).save(path, quality=92)
        self.record.photos[image_id] = path
        found = [item for item in scene.objects if item.mask.sum() > 60]
        self.add(image_id, scene.rgb, [(item.label, item.mask) for item in found], path)

    def add(self, image_id: str, rgb: np.ndarray, objects: list[tuple[str, np.ndarray]], path: Path) -> None:
        """Add the events of a photo with these labels and masks, and its PLY files."""
        record, run = self.record, self.record.run
        height, width = rgb.shape[:2]
        image = photo_ref(path, width, height)
        published, self._clock = self._clock * 0.2, self._clock + 1
        detected = published + 0.6
        identity = {"image_id": image_id, "run": run, "published_at": later(published)}
        items = []
        for index, (label, mask) in enumerate(objects):
            x0, y0, x1, y1 = masks.box(masks.encode(mask))
            items.append(
                events.DetectedObject(
                    object_id=events.object_id(image_id, run, index),
                    index=index,
                    label=label,
                    confidence=0.95 - 0.03 * index,
                    box=[x0, y0, x1, y1],
                )
            )
        record.add(
            events.DetectionEvent(
                **identity,
                status="detected",
                image=image,
                objects=items,
                detected_at=later(detected),
                deadline_at=DEADLINE,
                times={"queue": 0.1, "fetch": 0.1, "detect": 0.4, "detect_infer_s": 0.25, "detect_masks_s": 0.05},
            ),
            f"detector-{len(record.photos) % 2}",
        )
        outcomes = []
        moment = detected
        for item, (_, mask) in zip(items, objects, strict=True):
            common = item.model_dump() | identity
            rle = masks.encode(mask)
            record.add(
                events.ObjectEvent(
                    **common,
                    count=len(items),
                    image=image,
                    mask=events.Mask(**rle),
                    area_px=masks.area(rle),
                    detector=events.Model(name="rooms-seg"),
                    detected_at=later(detected),
                    deadline_at=DEADLINE,
                )
            )
            header, ply = reconstruct(rgb, rle, {"max_gaussians": 3000, "grid": 128})
            sha = hashlib.sha256(ply).hexdigest()
            self.plys[sha] = ply
            ref = events.BlobRef(
                key=f"reconstructions/f/{sha}.ply", sha256=sha, size=len(ply), media_type="application/octet-stream"
            )
            moment += 0.25
            result = {
                "ply": ref,
                "geometry": events.Geometry(**header),
                "model": MODEL,
                "times": {"queue": 0.1, "wait": 0.05, "reconstruct": 0.2, "store": 0.01},
            }
            record.add(
                events.ReconstructionEvent(
                    **common,
                    **result,
                    status="reconstructed",
                    reconstructed_at=later(moment),
                    deadline_at=DEADLINE,
                ),
                f"reconstructor-{item.index % 2}",
            )
            outcomes.append(events.ObjectOutcome(**item.model_dump(), **result, status="reconstructed"))
            path = self.folder / "ply" / file_name(image_id, item.index, item.label, self._taken)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(ply)
            record.plys[item.object_id] = path
        record.add(
            events.CompletedImageEvent(
                **identity,
                revision=1,
                status="complete",
                image=image,
                objects=outcomes,
                detector=events.Model(name="rooms-seg"),
                completed_at=later(moment + 0.05),
            ),
            "aggregator",
        )

    def failed(self, image_id: str, code: str, message: str) -> None:
        """Add a photo that could not be processed."""
        path = self.folder / f"broken-{len(self.record.photos)}.jpg"
        path.write_bytes(b"no photo")
        self.record.photos[image_id] = path
        why = events.Failure(code=code, message=message)
        identity = {"image_id": image_id, "run": self.record.run, "published_at": START, "status": "failed"}
        self.record.add(
            events.DetectionEvent(**identity, reason=why, objects=[], detected_at=later(1), deadline_at=DEADLINE)
        )
        self.record.add(
            events.CompletedImageEvent(**identity, reason=why, revision=1, objects=[], completed_at=later(1.1))
        )
