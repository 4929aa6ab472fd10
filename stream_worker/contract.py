"""The JSON Schemas at work: every event is checked against its schema when it is written and when it is read."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jsonschema_rs
import orjson

from stream_worker import events
from stream_worker.errors import Reason, RecordFault

E = TypeVar("E", bound=events.Event)

SCHEMAS: dict[type[events.Event], str] = {
    events.ImageEvent: "image",
    events.ObjectEvent: "object",
    events.DetectionEvent: "detection",
    events.ReconstructionEvent: "reconstruction",
    events.CompletedImageEvent: "completed-image",
    events.JoinStateEvent: "join-state",
    events.JoinFloorEvent: "join-floor",
}
"""The name of each event: its file in `schemas/`, and the middle of its CloudEvents type."""


def ce_type(event: type[events.Event]) -> str:
    """The CloudEvents type of an event, such as `stream_worker.image.v1`."""
    return f"stream_worker.{SCHEMAS[event]}.v1"


def schema_folder() -> Path:
    """Where the schema files are: beside the package's modules in a wheel, beside the package in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / "schemas", package.parent / "schemas") if folder.is_dir())


@cache
def _validator(event: type[events.Event]) -> jsonschema_rs.Draft202012Validator:
    schema = orjson.loads((schema_folder() / f"{SCHEMAS[event]}.schema.json").read_bytes())
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


def _check(event: type[events.Event], value: Any) -> None:
    try:
        _validator(event).validate(value)
    except jsonschema_rs.ValidationError as error:
        place = ".".join(str(step) for step in error.instance_path) or "the event"
        raise RecordFault(Reason.INVALID_EVENT, f"{SCHEMAS[event]}: {place}: {error.message[:500]}") from None


def encode(event: events.Event) -> bytes:
    """The event as JSON. Raises RecordFault(INVALID_EVENT) where it does not match its schema."""
    value = event.model_dump(mode="json", exclude_none=True)
    _check(type(event), value)
    return orjson.dumps(value)


def decode(event: type[E], data: bytes | None) -> E:
    """The event in a record's value. Raises RecordFault(INVALID_EVENT), whatever the bytes are."""
    if data is None:
        raise RecordFault(Reason.INVALID_EVENT, f"{SCHEMAS[event]}: the record has no value")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RecordFault(Reason.INVALID_EVENT, f"{SCHEMAS[event]}: not JSON: {error}") from None
    _check(event, value)
    try:
        return event.model_validate(value)
    except ValueError as error:
        raise RecordFault(Reason.INVALID_EVENT, f"{SCHEMAS[event]}: {str(error)[:500]}") from None


def schema_of(event: type[events.Event]) -> dict[str, Any]:
    """The JSON Schema (2020-12) that `events.py` means."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:stream-worker:schema:{SCHEMAS[event]}:1",
        **_without_titles(event.model_json_schema(mode="validation")),
    }


def _without_titles(schema: Any) -> Any:
    """pydantic titles every field with its own name again: noise in a contract."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


def write_schemas(folder: Path) -> None:
    """Write every schema file anew."""
    for event, name in SCHEMAS.items():
        data = orjson.dumps(schema_of(event), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        (folder / f"{name}.schema.json").write_bytes(data)


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]) if len(sys.argv) > 1 else schema_folder())
