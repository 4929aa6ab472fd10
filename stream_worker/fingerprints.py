"""Results found again: the same photo, mask, model, weights and settings are not computed twice."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from stream_worker import telemetry
from stream_worker.errors import RecordFault
from stream_worker.events import BlobRef, Geometry, Part
from stream_worker.store import Store

PLY, GLB = "application/x-ply", "model/gltf-binary"

log = telemetry.get(__name__)


class Finished(Part):
    """What a fingerprint led to."""

    ply: BlobRef
    geometry: Geometry
    glb: BlobRef | None = None
    points: BlobRef | None = None


class Note(Part):
    """`Finished` as it lies beside its PLY, with a digest of its own: nothing else would tell a number gone wrong."""

    finished: Finished
    sha256: str


def fingerprint(*parts: Any) -> str:
    """sha256 of all that decides a result (JSON-able values), 64 hex digits."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def keep(
    store: Store, of: str, ply: bytes, geometry: Geometry, *, glb: bytes = b"", points: bytes = b""
) -> Finished:
    """Store a PLY as `reconstructions/<fingerprint>/<sha256>.ply`, then note that the fingerprint is finished.

    `glb` and `points` (a PLY too) are stored beside it where there are any.

    Both are written anew: it was not found, so what may lie there in its name is nothing to rely on.
    """
    ref = await store.put_content(_folder(of), ply, PLY, suffix=".ply", anew=True)
    finished = Finished(
        ply=ref,
        geometry=geometry,
        glb=await store.put_content(_folder(of), glb, GLB, suffix=".glb", anew=True) if glb else None,
        points=await store.put_content(_folder(of), points, PLY, suffix=".points.ply", anew=True) if points else None,
    )
    note = Note(finished=finished, sha256=_digest(finished))
    # The note last: whoever finds it finds the blob, and dying in between leaves only an orphan.
    await store.put(_note(of), orjson.dumps(note.model_dump(mode="json")), "application/json", anew=True)
    return finished


async def find(store: Store, of: str) -> Finished | None:
    """What was finished under this fingerprint, if its note is whole and its PLY has the sha256 that the note says.

    None otherwise: computing it again mends it. The PLY is read for that, little beside the work that it saves; an
    event must not reference a blob that nobody has looked at since it was written.
    """
    try:
        data = await store.find(_note(of))
        if data is None:
            return None
        note = Note.model_validate(orjson.loads(data))
        finished = note.finished
        blobs = {".ply": finished.ply, ".glb": finished.glb, ".points.ply": finished.points}
        there = {suffix: ref for suffix, ref in blobs.items() if ref is not None}
        strange = any(ref.key != f"{_folder(of)}/{ref.sha256}{suffix}" for suffix, ref in there.items())
        if note.sha256 != _digest(finished) or strange:
            raise ValueError("it was changed after it was written")
        for ref in there.values():
            await store.get(ref)
    except (ValueError, RecordFault) as error:  # the first: not JSON, or not a note
        log.warning("a finished result can't be used again", fingerprint=of, error=str(error))
        return None
    return finished


def _digest(finished: Finished) -> str:
    return fingerprint(finished.model_dump(mode="json", exclude_none=True))


def _folder(of: str) -> str:
    return f"reconstructions/{of}"


def _note(of: str) -> str:
    return f"{_folder(of)}/result.json"
