"""The contract: every event that travels through the service, as a type.

The JSON Schemas in `schemas/` are written from these types (`python -m stream_worker.contract`), and a test
holds the two together. Readers accept fields they don't know, so a field may be added at any time.

Units and frames: times are UTC; durations are seconds; boxes and masks are in pixels of the upright photo
(EXIF orientation applied), origin in the upper left corner, x right, y down.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

LIVE = "live"
DEEPEST = 64
"""Levels of a publisher's own JSON: it travels within other events, and is read and written at each step."""


def _shallow(metadata: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [metadata]
    for _ in range(DEEPEST):
        children = (one.values() if isinstance(one, dict) else one for one in level)
        level = [child for some in children for child in some if isinstance(child, dict | list)]
        if not level:
            return metadata
    raise ValueError(f"metadata is nested more than {DEEPEST} deep")


ImageId = Annotated[str, Field(min_length=1, max_length=256, description="The publisher's name of the photo.")]
Run = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Which processing of the photo this is; `live` at first.",
    ),
]
ObjectId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="Derived from image_id, run and index.")]
Label = Annotated[str, Field(min_length=1, max_length=128, description="Class name.")]
Unit = Annotated[float, Field(ge=0, le=1)]
Box = Annotated[
    list[float],
    Field(min_length=4, max_length=4, description="x0, y0, x1, y1 in pixels of the upright photo."),
]
Vector3 = Annotated[list[float], Field(min_length=3, max_length=3)]
Seconds = Annotated[float, Field(ge=0)]
Metadata = Annotated[
    dict[str, Any],
    AfterValidator(_shallow),
    Field(description="The publisher's own, nested up to 64 deep; passed on to the completed event."),
]
Deadline = Annotated[AwareDatetime, Field(description="When the image is completed with what there is.")]
Recompute = Annotated[bool, Field(description="Spend GPU time also where the result of the same work is found.")]
Index = Annotated[int, Field(ge=0, description="The object's place in its photo, most confident first.")]


def utc_now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def object_id(image_id: str, run: str, index: int) -> str:
    """The id of an object: the same photo, run and index always give the same 32 hex digits."""
    return hashlib.sha256(f"{image_id}\0{run}\0{index}".encode()).hexdigest()[:32]


class Part(BaseModel):
    """A piece of an event. Unknown fields are dropped, never refused."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,  # JSON has no such numbers: they would be written as null
        ser_json_inf_nan="constants",
        protected_namespaces=(),
    )


class Event(Part):
    """What all events share."""

    version: Literal[1] = Field(1, description="Version of this event's schema.")


class BlobRef(Part):
    """A reference to bytes in the object store."""

    key: str = Field(min_length=1, max_length=1024, pattern=r"^[A-Za-z0-9._/-]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="Bytes.")
    media_type: str = Field(max_length=128)


class PhotoRef(BlobRef):
    """A photo's bytes in the object store, as they were fetched, and its upright size in pixels."""

    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Mask(Part):
    """An object's mask: COCO run-length encoding at the full size of the upright photo."""

    size: list[int] = Field(min_length=2, max_length=2, description="height, width")
    counts: str = Field(description="Compressed run lengths, column by column, as pycocotools writes them.")


class Failure(Part):
    """Why something has no result."""

    code: str = Field(max_length=64, description="One of the reason codes (stream_worker.errors.Reason).")
    message: str = Field(max_length=1000)


class Model(Part):
    """Which model gave a result."""

    name: str
    version: str = ""
    weights_sha256: str | None = None


class OrientedBox(Part):
    """The box around an object, turned with it."""

    center: Vector3
    rotation: list[Vector3] = Field(
        min_length=3,
        max_length=3,
        description="Rows: the directions of width, depth and height (unit vectors).",
    )
    width: float = Field(ge=0)
    height: float = Field(ge=0)
    depth: float = Field(ge=0)


class Pose(Part):
    """Object frame to camera frame: x_camera = scale * R(rotation) x_object + translation."""

    rotation: list[float] = Field(min_length=4, max_length=4, description="Quaternion w, x, y, z.")
    translation: Vector3
    scale: float = Field(gt=0)


class Geometry(Part):
    """Size and place of a reconstructed object, in `unit` and `frame`."""

    gaussians: int = Field(ge=1, description="Number of Gaussians in the PLY.")
    frame: str = Field(description="The camera frame of the box and pose.")
    unit: str = Field(description="Unit of lengths; `relative` where no absolute size is known.")
    oriented_box: OrientedBox
    volume: float = Field(ge=0, description="In unit^3.")
    volume_method: str
    pose: Pose


class ImageEvent(Event):
    """Topic `images`: a photo to process. Published by upstream apps, keyed by image_id."""

    image_id: ImageId
    url: str = Field(min_length=1, max_length=8192, description="http(s) or s3 URL of a JPEG, PNG or WebP.")
    run: Run = LIVE
    published_at: AwareDatetime | None = None
    classes: list[Label] | None = Field(None, max_length=256, description="Only these classes; null: all.")
    deadline_s: float | None = Field(None, gt=0, le=604800, description="Seconds from publishing; null: default.")
    recompute: Recompute = False
    metadata: Metadata | None = None


class ObjectEvent(Event):
    """Topic `objects`: one object found in a photo, with its mask. The work of a reconstructor."""

    object_id: ObjectId
    image_id: ImageId
    run: Run
    index: Index
    count: int = Field(ge=1, description="How many objects the photo has.")
    image: PhotoRef
    label: Label
    confidence: Unit
    box: Box
    mask: Mask
    area_px: int = Field(ge=0, description="Pixels in the mask.")
    detector: Model
    published_at: AwareDatetime
    detected_at: AwareDatetime
    deadline_at: Deadline
    recompute: Recompute = False


class DetectedObject(Part):
    """An object as the manifest names it."""

    object_id: ObjectId
    index: Index
    label: Label
    confidence: Unit
    box: Box


class DetectionEvent(Event):
    """Topic `detections`: the manifest, exactly which objects a photo has (none, if it failed)."""

    image_id: ImageId
    run: Run
    status: Literal["detected", "failed"]
    reason: Failure | None = None
    image: PhotoRef | None = None
    objects: list[DetectedObject]
    detector: Model | None = None
    replay_of: Run | None = Field(None, description="The run whose objects these are, where a replay took them over.")
    published_at: AwareDatetime
    detected_at: AwareDatetime
    deadline_at: Deadline
    times: dict[str, Seconds] = {}
    metadata: Metadata | None = None


class ReconstructionEvent(Event):
    """Topic `reconstructions`: the outcome of one object, keyed by image_id."""

    object_id: ObjectId
    image_id: ImageId
    run: Run
    index: Index
    status: Literal["reconstructed", "failed"]
    reason: Failure | None = None
    label: Label
    confidence: Unit
    box: Box
    ply: BlobRef | None = Field(None, description="3D Gaussians, binary PLY, in the object's own frame.")
    glb: BlobRef | None = Field(None, description="A mesh, binary glTF, where one was asked for.")
    points: BlobRef | None = Field(None, description="Coloured points, a small PLY, where they were asked for.")
    geometry: Geometry | None = None
    model: Model | None = None
    fingerprint: str | None = Field(None, description="sha256 of all that decides the result.")
    reused: bool = Field(False, description="The result of the same fingerprint was found, no GPU time was spent.")
    settings: dict[str, bool | int | float | str] | None = Field(
        None, description="Of the model: what decided the result beside photo, mask and weights."
    )
    device: str | None = Field(
        None, max_length=128, description="Where the model worked, as the worker was told: a GPU's UUID under `up`."
    )
    peak_gpu_bytes: int | None = Field(None, ge=0, description="GPU memory that the model held at most; null: no GPU.")
    published_at: AwareDatetime
    reconstructed_at: AwareDatetime
    deadline_at: Deadline
    times: dict[str, Seconds] = {}


class ObjectOutcome(Part):
    """One object of a completed image."""

    object_id: ObjectId
    index: Index
    status: Literal["reconstructed", "failed", "missing"]
    reason: Failure | None = None
    label: Label
    confidence: Unit
    box: Box
    ply: BlobRef | None = None
    glb: BlobRef | None = None
    points: BlobRef | None = None
    geometry: Geometry | None = None
    model: Model | None = None
    reused: bool = False
    times: dict[str, Seconds] = {}


class CompletedImageEvent(Event):
    """Topic `completed-images`: the joined outcome of a photo, exactly one per run and revision.

    `complete`: every object reconstructed (also: there are none). `partial`: the objects whose status is
    `failed` or `missing` say why. `failed`: the photo itself could not be processed.
    """

    image_id: ImageId
    run: Run
    revision: int = Field(ge=1, description="1 at first; a late result after a deadline gives the next.")
    status: Literal["complete", "partial", "failed"]
    reason: Failure | None = None
    image: PhotoRef | None = None
    objects: list[ObjectOutcome]
    detector: Model | None = None
    published_at: AwareDatetime
    completed_at: AwareDatetime
    times: dict[str, Seconds] = {}
    metadata: Metadata | None = None


class JoinedImage(Part):
    """What the aggregator knows of an image, its results aside."""

    first_seen_at: AwareDatetime
    deadline_at: Deadline
    manifest: DetectionEvent | None = None
    revision: int = Field(0, ge=0, description="The last one that was published.")
    status: Literal["open", "complete", "partial", "failed"] = "open"
    finished_at: AwareDatetime | None = Field(None, description="When that revision was published.")
    final: bool = Field(False, description="Nothing can change the outcome: manifest and results are let go.")
    stray: bool = Field(False, description="Begun by a result that may be of an image that was finished and forgotten.")


class JoinStateEvent(Event):
    """Topic `join-changelog`: a piece of what the aggregator knows. Ours alone, not a contract.

    Either the image itself (key: image_id, run) or one of its results (key: image_id, run, object_id): so a
    result costs its own size in the changelog, and not that of all results before it.
    """

    image_id: ImageId
    run: Run
    image: JoinedImage | None = None
    result: ReconstructionEvent | None = None


class JoinFloorEvent(Event):
    """Topic `join-changelog`, one a partition (key: []): how far the aggregator has forgotten early. Ours alone."""

    deadline_at: Deadline = Field(
        description="The latest one of all images that were forgotten before their grace was over."
    )
