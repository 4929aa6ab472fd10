"""Results found again: the same photo, mask, model, weights and settings are not computed twice."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from pydantic import ValidationError

from stream_worker.events import BlobRef, Geometry, Part
from stream_worker.store import Store

PLY = "application/x-ply"


class Finished(Part):
    """What a fingerprint led to, noted beside its PLY."""

    ply: BlobRef
    geometry: Geometry


def fingerprint(*parts: Any) -> str:
    """sha256 of all that decides a result (JSON-able values), 64 hex digits."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def keep(store: Store, of: str, ply: bytes, geometry: Geometry) -> Finished:
    """Store a PLY as `reconstructions/<fingerprint>/<sha256>.ply`, then note that the fingerprint is finished."""
    finished = Finished(ply=await store.put_content(_folder(of), ply, PLY, suffix=".ply"), geometry=geometry)
    # The note last: whoever finds it finds the blob, and dying in between leaves only an orphan.
    await store.put(_note(of), orjson.dumps(finished.model_dump(mode="json")), "application/json")
    return finished


async def find(store: Store, of: str) -> Finished | None:
    """What was finished under this fingerprint, if its blob is still there. A note that can't be read is none."""
    note = await store.find(_note(of))
    if note is None:
        return None
    try:
        finished = Finished.model_validate(orjson.loads(note))
    except (orjson.JSONDecodeError, ValidationError):
        return None
    there = await store.stat(finished.ply.key)
    return finished if there is not None and there.size == finished.ply.size else None


def _folder(of: str) -> str:
    return f"reconstructions/{of}"


def _note(of: str) -> str:
    return f"{_folder(of)}/result.json"
