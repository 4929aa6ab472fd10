"""The detector group: a photo's URL in, one object event per mask and the manifest out."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

from stream_worker import inference, metrics, topics
from stream_worker.balance import Balancer
from stream_worker.contract import decode, encode
from stream_worker.errors import Reason, RecordFault
from stream_worker.events import (
    DetectedObject,
    DetectionEvent,
    Failure,
    ImageEvent,
    ObjectEvent,
    PhotoRef,
    ReconstructionEvent,
    object_id,
    utc_now,
)
from stream_worker.headers import cloud_event
from stream_worker.images.address import AddressPolicy
from stream_worker.images.decode import Decoder
from stream_worker.images.fetch import Fetcher, FetchLimits
from stream_worker.models import results
from stream_worker.models.batches import Batches
from stream_worker.models.results import FoundObject
from stream_worker.records import Output, Received, Stateless
from stream_worker.settings import Detector as DetectorSettings
from stream_worker.settings import Settings
from stream_worker.store import Store, open_photos, open_store

NAME = "detector"
RECONSTRUCTOR = "reconstructor"
PHOTOS = "images"
OURS = "rooms-seg"
LEAST_WINDOW = 8
"""Photos that are fetched, decoded, in the model or committed at once; four batches where they are larger than one."""
MODELS = {"yolo": "stream_worker.models.yolo.adapter:Yolo"}


class Detector(Stateless):
    """One process of the group `detector`; see `records.Group` for its verbs."""

    name = NAME
    topics: tuple[str, ...] = (topics.IMAGES,)

    def __init__(self, settings: Settings, worker: str | None = None) -> None:
        """`worker` names this process in the headers of its events."""
        self._source = f"{NAME}/{worker}" if worker else NAME
        self._settings = settings
        section = settings.detector
        batch = inference.batch(section)
        self.window = LEAST_WINDOW if batch == 1 else 4 * batch
        self.longest_s = inference.longest_s(section, self.window // batch)
        self._resources = AsyncExitStack()
        self._balancer = Balancer(settings.kafka, RECONSTRUCTOR)
        self._host = inference.host(
            NAME,
            MODELS.get(section.model, section.model),
            section,
            Reason.DETECT_FAILED,
            options={"weights": weights(section), "batch": batch},
        )
        self._model = Batches(self._host, section.batch_wait_ms / 1000)
        self._store: Store
        self._fetcher: Fetcher
        self._decoder: Decoder

    async def start(self) -> None:
        """Load and warm up the model; connect to the store. Raises UserError where that can't be."""
        images = self._settings.images
        async with AsyncExitStack() as stack:
            self._store = await stack.enter_async_context(open_store(self._settings))
            await stack.enter_async_context(self._host)
            await stack.enter_async_context(self._model)
            self._decoder = await stack.enter_async_context(Decoder(images))
            photos = await stack.enter_async_context(open_photos(self._settings)) if images.s3_buckets else None
            self._fetcher = await stack.enter_async_context(
                Fetcher(
                    FetchLimits(
                        total_s=images.timeout_s,
                        max_bytes=images.max_bytes,
                        connections=self.window,
                        connections_per_host=max(LEAST_WINDOW, self.window // 2),
                    ),
                    AddressPolicy.parse(images.allow_networks, ports=images.ports),
                    read_s3=photos.read if photos else None,
                    s3_allow=images.s3_buckets,
                )
            )
            stack.push_async_callback(self._balancer.stop)
            await self._balancer.start()
            self._resources = stack.pop_all()

    async def stop(self) -> None:
        """End the model's process and disconnect."""
        await self._resources.aclose()

    async def process(self, record: Received) -> list[Output]:
        """Fetch, keep, decode and detect one photo."""
        event = decode(ImageEvent, record.value)
        times = {"queue": _seconds_since(record)}
        started = time.monotonic()

        def lap(phase: str) -> None:
            nonlocal started
            now = time.monotonic()
            times[phase] = round(now - started, 4)
            started = now

        fetched = await self._fetcher.fetch(event.url)
        lap("fetch")
        pixels = await self._decoder.decode(fetched.data)
        try:
            lap("decode")
            blob = await self._store.put_content(PHOTOS, fetched.data, fetched.media_type or "image/*")
            lap("store")
            answer = await self._model.infer(
                {
                    "pixels": pixels.path,
                    "width": pixels.width,
                    "height": pixels.height,
                    "classes": event.classes,
                }
            )
            lap("detect")
        finally:
            pixels.release()
        metrics.observe_phases(NAME, times)
        photo = PhotoRef(**blob.model_dump(), width=pixels.width, height=pixels.height)
        most = self._settings.detector.max_objects
        (objects, steps), _ = await asyncio.gather(
            asyncio.to_thread(results.found, answer, photo.width, photo.height, most), self._balancer.look()
        )
        times.update({f"detect_{name}": seconds for name, seconds in steps.items()})
        return self._outputs(record, event, photo, objects, times)

    def failed(self, record: Received, fault: RecordFault) -> list[Output]:
        """The manifest of a photo that can't be processed; none where the event can't even be read."""
        try:
            event = decode(ImageEvent, record.value)
        except RecordFault:
            return []
        manifest = self._manifest(record, event, status="failed", reason=_failure(fault), objects=[])
        return [self._output(topics.DETECTIONS, manifest, event.image_id, record)]

    # ------------------------------------------------------------------ what is written

    def _outputs(
        self, record: Received, event: ImageEvent, photo: PhotoRef, found: list[FoundObject], times: dict[str, float]
    ) -> list[Output]:
        model = inference.model_of(self._host)
        published_at, deadline_at = self._moments(record, event)
        detected_at = utc_now()
        outputs: list[Output] = []
        objects: list[DetectedObject] = []
        for index, one in enumerate(found):
            identity = object_id(event.image_id, event.run, index)
            shared: dict[str, Any] = {
                "object_id": identity,
                "index": index,
                "label": one.label,
                "confidence": one.confidence,
                "box": one.box,
            }
            objects.append(DetectedObject(**shared))
            work = ObjectEvent(
                **shared,
                image_id=event.image_id,
                run=event.run,
                count=len(found),
                image=photo,
                mask=one.mask,
                area_px=one.area_px,
                detector=model,
                published_at=published_at,
                detected_at=detected_at,
                deadline_at=deadline_at,
                recompute=event.recompute,
            )
            output = self._output(topics.OBJECTS, work, identity, record)
            if len(output.value or b"") <= self._settings.kafka.max_event_bytes:
                outputs.append(output)
                continue
            outcome = ReconstructionEvent(
                **shared,
                image_id=event.image_id,
                run=event.run,
                status="failed",
                reason=Failure(code=Reason.EVENT_TOO_LARGE, message=f"a mask of {len(output.value or b'')} bytes"),
                published_at=published_at,
                reconstructed_at=detected_at,
                deadline_at=deadline_at,
            )
            outputs.append(self._output(topics.RECONSTRUCTIONS, outcome, event.image_id, record))
        manifest = self._manifest(
            record, event, status="detected", objects=objects, image=photo, detector=model, times=times
        )
        return [*outputs, self._output(topics.DETECTIONS, manifest, event.image_id, record)]

    def _manifest(self, record: Received, event: ImageEvent, **fields: Any) -> DetectionEvent:
        published_at, deadline_at = self._moments(record, event)
        return DetectionEvent(
            image_id=event.image_id,
            run=event.run,
            published_at=published_at,
            detected_at=utc_now(),
            deadline_at=deadline_at,
            metadata=event.metadata,
            **fields,
        )

    def _moments(self, record: Received, event: ImageEvent) -> tuple[datetime, datetime]:
        """When the photo was published, and when it must be completed."""
        accepted_at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
        patience = event.deadline_s or self._settings.aggregator.deadline_s
        return event.published_at or accepted_at, accepted_at + timedelta(seconds=patience)

    def _output(
        self, topic: str, event: ObjectEvent | DetectionEvent | ReconstructionEvent, key: str, record: Received
    ) -> Output:
        partition = self._balancer.choose(record.partition) if topic == topics.OBJECTS else None
        return Output(topic, key.encode(), encode(event), cloud_event(event, self._source, record.headers), partition)


def weights(section: DetectorSettings) -> str:
    """The weights' file: ours by name, or the path that is set."""
    if section.weights != OURS:
        return section.weights
    return str(resources.files("stream_worker.models") / "weights" / f"{OURS}.pt")


def _failure(fault: RecordFault) -> Failure:
    return Failure(code=fault.reason.value, message=fault.message[:1000])


def _seconds_since(record: Received) -> float:
    return round(max(0.0, time.time() - record.timestamp_ms / 1000), 4)
