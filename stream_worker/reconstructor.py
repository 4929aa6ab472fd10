"""The reconstructor group: a mask in, a 3D object with its size and volume out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_worker import fingerprints, inference, metrics, topics
from stream_worker.contract import decode, encode
from stream_worker.errors import Exit, Reason, RecordFault, UserError
from stream_worker.events import Failure, Geometry, ObjectEvent, ReconstructionEvent, utc_now
from stream_worker.geometry import gaussians, masks
from stream_worker.geometry.catalogue import Catalogue
from stream_worker.headers import cloud_event
from stream_worker.images.decode import Decoder
from stream_worker.images.shared import SharedPhotos
from stream_worker.models import results
from stream_worker.models.answer import NOT_FINITE
from stream_worker.models.sam3d.result import measured, parts
from stream_worker.records import Output, Received, Stateless
from stream_worker.settings import SAM3D, Settings
from stream_worker.store import Store, open_store

NAME = "reconstructor"
MODELS = {
    "silhouette": "stream_worker.models.silhouette:Silhouette",
    SAM3D: "stream_worker.models.sam3d.adapter:Sam3d",
}
NOT_OF_THE_RESULT = {"checkpoint", "sha256sums", "exact_savings", "cuda_graphs", "compile", "warm_up_runs"}
"""Settings of `sam3d` that change no result: the weights stand in the fingerprint by their sum."""


@dataclass(frozen=True, slots=True)
class Made:
    """What is stored of an object. No bytes where something was not asked for."""

    ply: bytes
    geometry: Geometry
    glb: bytes
    points: bytes


class Reconstructor(Stateless):
    """One process of the group `reconstructor`; see `records.Group` for its verbs."""

    name = NAME
    topics: tuple[str, ...] = (topics.OBJECTS,)
    window = 3
    """One object in the model, the next one fetched and decoded, the last one uploaded and committed."""

    def __init__(self, settings: Settings, worker: str | None = None) -> None:
        """`worker` names this process in the headers of its events. Raises UserError for a catalogue of no use."""
        self._source = f"{NAME}/{worker}" if worker else NAME
        self._settings = settings
        self._catalogue = _catalogue(settings.reconstructor.catalogue)
        self._resources = AsyncExitStack()
        section = settings.reconstructor
        self._packs = section.model == SAM3D
        self.longest_s = inference.longest_s(section, self.window)
        self._host = inference.host(
            NAME,
            MODELS.get(section.model, section.model),
            section,
            Reason.RECONSTRUCT_FAILED,
            options=settings.sam3d.model_dump() | {"seed": section.seed} if section.model == SAM3D else None,
            reasons={NOT_FINITE: Reason.BAD_GEOMETRY, "bad_geometry": Reason.BAD_GEOMETRY},
        )
        self._store: Store
        self._photos: SharedPhotos

    async def start(self) -> None:
        """Load and warm up the model; connect to the store. Raises UserError where that can't be."""
        async with AsyncExitStack() as stack:
            self._store = await stack.enter_async_context(open_store(self._settings))
            await stack.enter_async_context(self._host)
            decoder = await stack.enter_async_context(Decoder(self._settings.images))
            self._photos = SharedPhotos(self._store, decoder)
            stack.callback(self._photos.clear)
            self._resources = stack.pop_all()

    async def stop(self) -> None:
        """End the model's process and disconnect."""
        await self._resources.aclose()

    async def process(self, record: Received) -> list[Output]:
        """Reconstruct one object, or find the result of the same work."""
        event = decode(ObjectEvent, record.value)
        started = time.monotonic()
        queued = max(0.0, time.time() - record.timestamp_ms / 1000)
        fingerprint = self._fingerprint(event)
        done = None if event.recompute else await fingerprints.find(self._store, fingerprint)
        if done is not None:
            times = {"queue": round(queued, 4), "reuse": round(time.monotonic() - started, 4)}
            return self._result(record, event, fingerprint, done, times, reused=True)
        async with self._photos.of(event.image) as (pixels, times):
            if [pixels.height, pixels.width] != event.mask.size:
                raise RecordFault(Reason.INVALID_EVENT, f"a mask of size {event.mask.size} is not of this photo")
            mask = await self._packed(event)
            inferring = time.monotonic()
            result = await self._host.infer(
                {
                    "pixels": pixels.path,
                    "width": pixels.width,
                    "height": pixels.height,
                    "mask": event.mask.model_dump(),
                    "label": event.label,
                    "settings": self._model_settings(),
                },
                mask,
            )
            waited = time.monotonic() - inferring - result.busy_s
        storing = time.monotonic()
        # Every number of a PLY is looked at: 60 MB take too long for the loop.
        made = await asyncio.to_thread(self._made, result.header, result.payload)
        finished = await fingerprints.keep(
            self._store, fingerprint, made.ply, made.geometry, glb=made.glb, points=made.points
        )
        times |= {
            "queue": round(queued, 4),
            "wait": round(max(0.0, waited), 4),
            "reconstruct": round(result.busy_s, 4),
            "store": round(time.monotonic() - storing, 4),
        }
        said = results.times(result.header.get("times", {}))
        times |= {f"model_{name.removesuffix('_s')}": seconds for name, seconds in said.items()}
        if result.body_s:
            times["model_write"] = round(result.body_s, 4)
        peak = result.header.get("peak_gpu_bytes")
        return self._result(
            record,
            event,
            fingerprint,
            finished,
            times,
            reused=False,
            peak_gpu_bytes=peak if type(peak) is int and peak >= 0 else None,
        )

    def _made(self, answer: Mapping[str, Any], payload: bytes) -> Made:
        """Checked, and measured here where the model does not: meanwhile the GPU has the next object."""
        section, glb, faintest = self._settings.reconstructor, b"", 0.0
        ply = payload
        if section.model == SAM3D:
            ply, glb = parts(answer, payload)
            answer = measured(answer, ply, self._settings.sam3d)
            faintest = self._settings.sam3d.min_opacity
        geometry = results.reconstructed(answer, ply)
        points = gaussians.to_points_ply(gaussians.from_ply(ply), faintest) if section.points else b""
        return Made(ply, geometry, glb, points)

    async def _packed(self, event: ObjectEvent) -> bytes:
        """The mask's pixels, for a model whose interpreter can't read run lengths. Here it costs the GPU no time."""
        if not self._packs:
            return b""
        try:
            return await asyncio.to_thread(masks.packed, event.mask.model_dump())
        except ValueError as error:
            raise RecordFault(Reason.INVALID_EVENT, str(error)) from error

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
        peak_gpu_bytes: int | None = None,
    ) -> list[Output]:
        metrics.observe_phases(NAME, times)
        output = self._output(
            record,
            event,
            status="reconstructed",
            ply=finished.ply,
            glb=finished.glb,
            points=finished.points,
            geometry=self._sized(finished.geometry, event.label),
            model=inference.model_of(self._host),
            fingerprint=fingerprint,
            reused=reused,
            settings=self._model_settings(),
            device=None if reused else inference.device_of(self._settings.reconstructor),
            peak_gpu_bytes=peak_gpu_bytes,
            times=times,
        )
        return [output]

    def _sized(self, geometry: Geometry, label: str) -> Geometry:
        """The size as the catalogue knows it. Not part of what is kept: another catalogue costs no reconstruction."""
        if self._catalogue is None:
            return geometry
        return Geometry.model_validate(self._catalogue.scaled(geometry.model_dump(), label))

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
        headers = cloud_event(outcome, self._source, record.headers)
        return Output(topics.RECONSTRUCTIONS, event.image_id.encode(), encode(outcome), headers)

    # ------------------------------------------------------------------ what decides a result

    def _fingerprint(self, event: ObjectEvent) -> str:
        """Photo, mask, label, model, weights and settings decide the result."""
        return fingerprints.fingerprint(
            event.image.sha256,
            event.mask.model_dump(),
            event.label,
            inference.model_of(self._host).model_dump(),
            self._model_settings(),
        )

    def _model_settings(self) -> dict[str, Any]:
        settings = self._settings.reconstructor
        asked = {"seed": settings.seed, **({"points": True} if settings.points else {})}
        if settings.model == SAM3D:
            return self._settings.sam3d.model_dump(exclude=NOT_OF_THE_RESULT) | asked
        return {"max_gaussians": settings.max_gaussians, **asked}


def _catalogue(path: Path | None) -> Catalogue | None:
    if path is None:
        return None
    try:
        return Catalogue.read(path.expanduser())
    except (OSError, ValueError) as error:
        raise UserError(f"setting reconstructor.catalogue: {error}", Exit.USAGE) from None
