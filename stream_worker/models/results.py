"""What a model says it found or made, checked before anything of it is kept or published: no child is trusted.

A wrong answer is the model's own and would come again, so nothing here is worth another attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from stream_worker.errors import Reason, RecordFault
from stream_worker.events import Box, Geometry, Label, Mask, Part, Unit
from stream_worker.geometry import masks, ply
from stream_worker.models.answer import clean

P = TypeVar("P", bound=Part)

MAX_TEXT = 256
"""Characters of a text that a model puts into an event: an event has to fit into its topic."""
MAX_TIMES = 32
LONGEST_S = 1e6

_NUMBERS = frozenset({"finite_number", "greater_than", "greater_than_equal", "less_than_equal"})
"""pydantic's names for a number of the right type that can't be."""


class FoundObject(Part):
    """An object as a detector's model describes it, in pixels of the upright photo."""

    label: Label
    confidence: Unit
    box: Box
    mask: Mask
    area_px: int = Field(ge=0)


def found(header: Mapping[str, Any], width: int, height: int, most: int) -> tuple[list[FoundObject], dict[str, float]]:
    """The objects in a photo of this size, `most` at most, and the seconds that the model's own steps took.

    Raises RecordFault (DETECT_FAILED).
    """
    said = header.get("objects")
    if not isinstance(said, list):
        raise RecordFault(Reason.DETECT_FAILED, "the detector's answer has no list of objects")
    if len(said) > most:
        raise RecordFault(Reason.DETECT_FAILED, f"the detector found {len(said)} objects, more than {most}")
    objects = []
    for index, one in enumerate(said):
        try:
            objects.append(_object(one, width, height))
        except ValueError as error:
            raise RecordFault(Reason.DETECT_FAILED, f"object {index} of the detector: {_why(error)}") from None
    return objects, times(header.get("times", {}))


def reconstructed(header: Mapping[str, Any], payload: bytes) -> Geometry:
    """The size and place of an object, whose Gaussians are in the PLY `payload`.

    Raises RecordFault: RECONSTRUCT_FAILED where the answer has not the form of one; BAD_GEOMETRY where it has no
    points, too few or too many for its PLY, a number that is NaN or infinite, or a size below zero.
    """
    try:
        geometry = Geometry.model_validate(header, strict=True)
    except ValidationError as error:
        bad = all(one["type"] in _NUMBERS for one in error.errors())
        reason = Reason.BAD_GEOMETRY if bad else Reason.RECONSTRUCT_FAILED
        raise RecordFault(reason, f"the model's geometry: {_why(error)}") from None
    for text in (geometry.frame, geometry.unit, geometry.volume_method):
        if clean(text) != text or len(text) > MAX_TEXT:
            raise RecordFault(Reason.RECONSTRUCT_FAILED, "the model's geometry: a text that fits into no event")
    try:
        count = ply.check(payload)
    except ValueError as error:
        raise RecordFault(Reason.BAD_GEOMETRY, str(error)) from None
    if count != geometry.gaussians:
        raise RecordFault(Reason.BAD_GEOMETRY, f"{count} Gaussians in the PLY, but the model says {geometry.gaussians}")
    return geometry


def _object(said: Any, width: int, height: int) -> FoundObject:
    one = FoundObject.model_validate(said, strict=True)
    if one.mask.size != [height, width]:
        raise ValueError(f"a mask of size {one.mask.size} is not of a photo of {[height, width]}")
    masks.validate(one.mask.model_dump())
    x0, y0, x1, y1 = one.box
    if x0 > x1 or y0 > y1:
        raise ValueError(f"the corners of the box {one.box} are not in order")
    return one


def times(said: Any) -> dict[str, float]:
    """A model's own seconds, phase by phase. Only figures for people: whatever is no duration is left out."""
    if not isinstance(said, dict) or len(said) > MAX_TIMES:
        return {}
    return {
        name: float(seconds)
        for name, seconds in said.items()
        if len(name) <= MAX_TEXT and name.isascii() and type(seconds) in (int, float) and 0 <= seconds < LONGEST_S
    }


def _why(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}"
