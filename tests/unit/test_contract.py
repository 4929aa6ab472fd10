"""The contract: files and types say the same, and neither side lets a wrong event through."""

from __future__ import annotations

import orjson
import pytest

from stream_worker import events
from stream_worker.contract import SCHEMAS, ce_type, decode, encode, schema_folder, schema_of
from stream_worker.errors import Reason, RecordFault
from stream_worker.events import CompletedImageEvent, ImageEvent, object_id, utc_now


@pytest.mark.parametrize(("event", "name"), SCHEMAS.items(), ids=SCHEMAS.values())
def test_the_schema_file_is_what_the_type_means(event: type[events.Event], name: str) -> None:
    """If this fails: `python -m stream_worker.contract`, and think of the readers of the old schema."""
    assert orjson.loads((schema_folder() / f"{name}.schema.json").read_bytes()) == schema_of(event)


def test_every_event_has_a_schema() -> None:
    assert set(SCHEMAS) == set(events.Event.__subclasses__())


def test_an_event_survives_the_way_there_and_back() -> None:
    event = ImageEvent(
        image_id="a", url="https://x.test/a.jpg", published_at=utc_now(), metadata={"kept": None, "n": [1, None]}
    )
    assert decode(ImageEvent, encode(event)) == event


def test_unknown_fields_are_accepted_from_newer_writers() -> None:
    event = decode(ImageEvent, b'{"image_id": "a", "url": "u", "from_the_future": {"x": 1}}')
    assert event.run == "live"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "no value"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", 'not of type "object"'),
        (b'{"url": "u"}', "image_id"),
        (b'{"image_id": "", "url": "u"}', "image_id"),
        (b'{"image_id": "' + b"x" * 257 + b'", "url": "u"}', "image_id"),
        (b'{"image_id": "a", "url": "u", "run": "../up"}', "run"),
        (b'{"image_id": "a", "url": "u", "version": 2}', "version"),
        (b'{"image_id": "a", "url": "u", "published_at": "yesterday"}', "published_at"),
        (b'{"image_id": "a", "url": "u", "deadline_s": NaN}', "not JSON"),
        (b'{"image_id": "a", "url": "u", "deadline_s": 1e999}', "image"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_image_event_is_refused_in_one_line(value: bytes | None, says: str) -> None:
    with pytest.raises(RecordFault) as refused:
        decode(ImageEvent, value)
    assert refused.value.reason is Reason.INVALID_EVENT
    assert says in refused.value.message
    assert "\n" not in refused.value.message


def test_an_event_that_breaks_its_schema_is_not_written() -> None:
    broken = CompletedImageEvent.model_construct(
        image_id="a",
        run="live",
        revision=0,
        status="complete",
        objects=[],
        published_at=utc_now(),
        completed_at=utc_now(),
    )
    with pytest.raises(RecordFault, match="revision"):
        encode(broken)


def test_object_ids_depend_on_image_run_and_index_alone() -> None:
    ids = {object_id(image, run, index) for image in ("a", "b") for run in ("live", "x") for index in range(3)}
    assert len(ids) == 12
    assert object_id("a", "live", 0) == object_id("a", "live", 0)


def test_types_are_named_by_cloud_events() -> None:
    assert ce_type(ImageEvent) == "stream_worker.image.v1"


def nested(levels: int) -> dict[str, object]:
    inner: object = 1
    for number in range(levels):
        inner = [inner] if number % 2 else {"a": inner}
    return {"a": inner}


def test_metadata_is_as_deep_as_every_step_can_carry_it() -> None:
    assert decode(ImageEvent, encode(ImageEvent(image_id="a", url="u", metadata=nested(63)))).metadata == nested(63)
    with pytest.raises(ValueError, match="more than 64 deep"):
        ImageEvent(image_id="a", url="u", metadata=nested(64))
    with pytest.raises(RecordFault, match="more than 64 deep") as refused:
        decode(ImageEvent, orjson.dumps({"image_id": "a", "url": "u", "metadata": nested(64)}))
    assert refused.value.reason is Reason.INVALID_EVENT
