"""The examples of events: right by schema and type, nothing lost on the way, and one story."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from pycocotools import mask as rle

from stream_worker import events
from stream_worker.contract import SCHEMAS, decode, encode, schema_folder
from stream_worker.errors import Reason
from stream_worker.events import DetectionEvent, ObjectEvent, object_id
from tests.compatibility import holds

FOLDER = schema_folder() / "examples"
EXAMPLES = sorted(FOLDER.glob("*.json"))
NAMED = {name: event for event, name in SCHEMAS.items()}


def test_every_event_has_an_example() -> None:
    assert {example.name.partition(".")[0] for example in EXAMPLES} == set(NAMED)
    assert all((FOLDER / f"{name}.json").is_file() for name in NAMED)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_goes_there_and_back(example: Path) -> None:
    kind = NAMED[example.name.partition(".")[0]]
    event = decode(kind, example.read_bytes())
    written = encode(event)
    assert decode(kind, written) == event
    assert holds(orjson.loads(written), orjson.loads(example.read_bytes())), "a field that the type does not know"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_ids_and_reasons_are_such_as_we_write(example: Path) -> None:
    event = decode(NAMED[example.name.partition(".")[0]], example.read_bytes())
    for part in parts(event):
        if isinstance(part, events.Failure):
            assert part.code in set(Reason)
        if isinstance(part, ObjectEvent | events.ReconstructionEvent):
            assert part.object_id == object_id(part.image_id, part.run, part.index)
        if isinstance(part, events.DetectionEvent | events.CompletedImageEvent):
            ids = [object_id(part.image_id, part.run, number) for number in range(len(part.objects))]
            assert [one.object_id for one in part.objects] == ids


def test_the_mask_is_one() -> None:
    event = decode(ObjectEvent, (FOLDER / "object.json").read_bytes())
    assert event.mask.size == [event.image.height, event.image.width]
    assert rle.area({"size": event.mask.size, "counts": event.mask.counts.encode()}) == event.area_px
    manifest = decode(DetectionEvent, (FOLDER / "detection.json").read_bytes())
    assert manifest.objects[event.index].object_id == event.object_id
    assert len(manifest.objects) == event.count


def parts(value: Any) -> list[events.Part]:
    """An event and all the parts in it."""
    if isinstance(value, list):
        return [part for item in value for part in parts(item)]
    if not isinstance(value, events.Part):
        return []
    return [value, *(part for name in type(value).model_fields for part in parts(getattr(value, name)))]
