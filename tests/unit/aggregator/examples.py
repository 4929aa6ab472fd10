"""Events as the detector and the reconstructor write them, as small as they may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from stream_worker.errors import Reason
from stream_worker.events import (
    BlobRef,
    DetectedObject,
    DetectionEvent,
    Failure,
    Geometry,
    Model,
    OrientedBox,
    PhotoRef,
    Pose,
    ReconstructionEvent,
    object_id,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
PHOTO = PhotoRef(key="images/" + "a" * 64, sha256="a" * 64, size=1000, media_type="image/jpeg", width=640, height=480)


def at(seconds: float) -> datetime:
    """So many seconds after the photos were published."""
    return START + timedelta(seconds=seconds)


def manifest(
    count: int,
    image_id: str = "photo",
    run: str = "live",
    *,
    failed: bool = False,
    deadline: float = 100,
    label: str = "sofa",
    metadata: dict[str, object] | None = None,
) -> DetectionEvent:
    """A photo with `count` objects, or one that failed. `deadline` in seconds after START."""
    return DetectionEvent(
        image_id=image_id,
        run=run,
        status="failed" if failed else "detected",
        reason=Failure(code=Reason.FETCH_FAILED, message="404") if failed else None,
        image=None if failed else PHOTO,
        objects=[
            DetectedObject(
                object_id=object_id(image_id, run, index),
                index=index,
                label=label,
                confidence=0.9 - index / 1000,
                box=[1.5, 2.5, 30.25, 40.125],
            )
            for index in range(0 if failed else count)
        ],
        detector=Model(name="rooms-seg", version="1"),
        published_at=START,
        detected_at=at(2),
        deadline_at=at(deadline),
        times={"fetch_s": 0.5, "infer_s": 0.25},
        metadata=metadata,
    )


def result(
    index: int,
    image_id: str = "photo",
    run: str = "live",
    *,
    failed: bool = False,
    attempt: str = "1",
    deadline: float = 100,
) -> ReconstructionEvent:
    """What became of the object with this index. `attempt` tells results of the same object apart."""
    return ReconstructionEvent(
        object_id=object_id(image_id, run, index),
        image_id=image_id,
        run=run,
        index=index,
        status="failed" if failed else "reconstructed",
        reason=Failure(code=Reason.EMPTY_MASK, message="nothing in the mask") if failed else None,
        label="sofa",
        confidence=0.5,
        box=[1.5, 2.5, 30.25, 40.125],
        ply=None if failed else _ply(),
        geometry=None if failed else _geometry(),
        model=Model(name="silhouette", version=attempt),
        fingerprint="f" * 64,
        published_at=START,
        reconstructed_at=at(5),
        deadline_at=at(deadline),
        times={"infer_s": 1.5},
    )


def _ply() -> BlobRef:
    sha256 = "b" * 64
    return BlobRef(
        key=f"reconstructions/{'f' * 64}/{sha256}.ply", sha256=sha256, size=10**6, media_type="application/ply"
    )


def _geometry() -> Geometry:
    return Geometry(
        gaussians=12345,
        frame="camera, x right, y down, z forward",
        unit="relative",
        oriented_box=OrientedBox(
            center=[0.1234567, 0.2345678, 1.3456789],
            rotation=[[1.0, 0.0, 0.0], [0.0, 0.9876543, 0.1234567], [0.0, -0.1234567, 0.9876543]],
            width=1.23456789,
            height=0.987654321,
            depth=0.87654321,
        ),
        volume=0.7654321987,
        volume_method="voxels",
        pose=Pose(rotation=[0.9, 0.1, 0.2, 0.3], translation=[0.1234567, 0.2345678, 1.3456789], scale=0.7654321),
    )
