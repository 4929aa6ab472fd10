"""The reconstructor group: a mask in, a 3D object with its size and volume out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from stream_worker import fingerprints, topics
from stream_worker.contract import decode, encode
from stream_worker.detector import model_of
from stream_worker.errors import Reason, RecordFault
from stream_worker.events import Failure, Geometry, ObjectEvent, ReconstructionEvent, utc_now
from stream_worker.headers import cloud_event
from stream_worker.images.decode import Decoder
from stream_worker.images.pixels import Pixels
from stream_worker.models.environment import compute_limits
from stream_worker.models.host import ModelHost
from stream_worker.records import Output, Received
from stream_worker.settings import Reconstructor as ReconstructorSettings
from stream_worker.settings import Settings
from stream_worker.store import Store, open_store

NAME = "reconstructor"
MODELS = {"silhouette": "stream_worker.models.silhouette:Silhouette"}


class Reconstructor:
    """One process of the group `reconstructor`; see `records.Group` for its verbs."""

    name = NAME
    topics: tuple[str, ...] = (topics.OBJECTS,)
    window = 3
    """One object in the model, the next one fetched and decoded, the last one uploaded and committed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resources = AsyncExitStack()
        self._host = model_host(settings.reconstructor)
        self._store: Store
        self._photos: Photos

    async def start(self) -> None:
        """Load and warm up the model; connect to the store. Raises UserError where that can't be."""
        async with AsyncExitStack() as stack:
            self._store = await stack.enter_async_context(open_store(self._settings))
            await stack.enter_async_context(self._host)
            decoder = await stack.enter_async_context(Decoder(self._settings.images))
            self._photos = Photos(self._store, decoder)
            stack.callback(self._photos.clear)
            self._resources = stack.pop_all()

    async def stop(self) -> None:
        """End the model's process and disconnect."""
        await self._resources.aclose()

    async def open(self, lane: int) -> None:
        """Nothing to restore: a reconstructor has no state."""

    async def close(self, lane: int) -> None:
        """Nothing to forget."""

    async def tick(self, lane: int) -> list[Output]:
        """Nothing happens by the clock alone."""
        return []

    async def process(self, record: Received) -> list[Output]:
        """Reconstruct one object, or find the result of the same work."""
        event = decode(ObjectEvent, record.value)
        started = time.monotonic()
        queued = max(0.0, time.time() - record.timestamp_ms / 1000)
        fingerprint = self._fingerprint(event)
        done = await fingerprints.find(self._store, fingerprint)
        if done is not None:
            times = {"queue": round(queued, 4), "reuse": round(time.monotonic() - started, 4)}
            return self._result(record, event, fingerprint, done, times, reused=True)
        async with self._photos.of(event) as (pixels, times):
            inferring = time.monotonic()
            result = await self._host.infer(
                {
                    "pixels": pixels.path,
                    "width": pixels.width,
                    "height": pixels.height,
                    "mask": event.mask.model_dump(),
                    "label": event.label,
                    "settings": self._model_settings(),
                }
            )
            waited = time.monotonic() - inferring - result.busy_s
        storing = time.monotonic()
        geometry = Geometry(**{name: result.header[name] for name in Geometry.model_fields})
        finished = await fingerprints.keep(self._store, fingerprint, result.payload, geometry)
        times |= {
            "queue": round(queued, 4),
            "wait": round(max(0.0, waited), 4),
            "reconstruct": round(result.busy_s, 4),
            "store": round(time.monotonic() - storing, 4),
        }
        return self._result(record, event, fingerprint, finished, times, reused=False)

    def failed(self, record: Received, fault: RecordFault) -> list[Output]:
        """The outcome of an object that can't be reconstructed; none where the event can't even be read."""
        try:
            event = decode(ObjectEvent, record.value)
        except RecordFault:
            return []
        reason = Failure(code=fault.reason.value, message=fault.message[:1000])
        return [self._output(record, event, status="failed", reason=reason)]

    # ------------------------------------------------------------------ what is written

    def _result(
        self,
        record: Received,
        event: ObjectEvent,
        fingerprint: str,
        finished: fingerprints.Finished,
        times: dict[str, float],
        *,
        reused: bool,
    ) -> list[Output]:
        output = self._output(
            record,
            event,
            status="reconstructed",
            ply=finished.ply,
            geometry=finished.geometry,
            model=model_of(self._host.info),
            fingerprint=fingerprint,
            reused=reused,
            times=times,
        )
        return [output]

    def _output(self, record: Received, event: ObjectEvent, **fields: Any) -> Output:
        outcome = ReconstructionEvent(
            object_id=event.object_id,
            image_id=event.image_id,
            run=event.run,
            index=event.index,
            label=event.label,
            confidence=event.confidence,
            box=event.box,
            published_at=event.published_at,
            reconstructed_at=utc_now(),
            deadline_at=event.deadline_at,
            **fields,
        )
        headers = cloud_event(outcome, NAME, record.headers)
        return Output(topics.RECONSTRUCTIONS, event.image_id.encode(), encode(outcome), headers)

    # ------------------------------------------------------------------ what decides a result

    def _fingerprint(self, event: ObjectEvent) -> str:
        """Photo, mask, label, model, weights and settings decide the result."""
        return fingerprints.fingerprint(
            event.image.sha256, event.mask.model_dump(), event.label, self._host.info, self._model_settings()
        )

    def _model_settings(self) -> dict[str, Any]:
        settings = self._settings.reconstructor
        return {"max_gaussians": settings.max_gaussians, "seed": settings.seed}


class Photos:
    """Decoded photos by sha256: the objects of a photo come one after the other, and share its pixels."""

    KEPT = 2

    def __init__(self, store: Store, decoder: Decoder) -> None:
        self._store = store
        self._decoder = decoder
        self._pixels: OrderedDict[str, Pixels] = OrderedDict()
        self._users: dict[str, int] = {}

    @asynccontextmanager
    async def of(self, event: ObjectEvent) -> AsyncIterator[tuple[Pixels, dict[str, float]]]:
        """The photo's pixels, and what it took to have them (seconds a phase).

        Raises RecordFault (BLOB_MISSING; INVALID_EVENT where the mask is not of this photo).
        """
        times: dict[str, float] = {}
        sha256 = event.image.sha256
        self._users[sha256] = self._users.get(sha256, 0) + 1
        try:
            if sha256 not in self._pixels:
                started = time.monotonic()
                data = await self._store.get(event.image)
                fetched = time.monotonic()
                pixels = await self._decoder.decode(data)
                times = {"fetch": round(fetched - started, 4), "decode": round(time.monotonic() - fetched, 4)}
                if sha256 in self._pixels:  # another object of this photo was quicker
                    pixels.release()
                else:
                    self._pixels[sha256] = pixels
            self._pixels.move_to_end(sha256)
            pixels = self._pixels[sha256]
            if [pixels.height, pixels.width] != event.mask.size:
                raise RecordFault(Reason.INVALID_EVENT, f"a mask of size {event.mask.size} is not of this photo")
            yield pixels, times
        finally:
            self._users[sha256] -= 1
            self._trim(self.KEPT)

    def clear(self) -> None:
        """Give all memory back."""
        self._users.clear()
        self._trim(0)

    def _trim(self, kept: int) -> None:
        for sha256 in list(self._pixels):
            if len(self._pixels) <= kept:
                break
            if not self._users.get(sha256):
                self._pixels.pop(sha256).release()
        self._users = {sha256: count for sha256, count in self._users.items() if count}


def model_host(settings: ReconstructorSettings) -> ModelHost:
    """The child process of the reconstructor's model."""
    return ModelHost(
        name=NAME,
        model=MODELS.get(settings.model, settings.model),
        options=settings.model_dump(mode="json", exclude={"python", "load_timeout_s", "task_timeout_s"}),
        python=settings.python,
        env=compute_limits(threads=settings.threads, device=settings.device),
        load_timeout_s=settings.load_timeout_s,
        task_timeout_s=settings.task_timeout_s,
        rss_limit_bytes=None if settings.memory_limit_mb is None else settings.memory_limit_mb * 2**20,
        fault_reason=Reason.RECONSTRUCT_FAILED,
    )
