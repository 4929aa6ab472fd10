"""What was released goes on working: old readers with new events, new readers with old ones.

If a test here fails for a change of yours: `ops/events.md` says what to do instead.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import yaml

from stream_worker import events
from stream_worker.contract import SCHEMAS, decode, encode, schema_folder, schema_of
from tests.compatibility import ANNOTATIONS, Schema, UnknownKeywordError, changes, header_schema, holds

RELEASED = sorted((schema_folder() / "released").iterdir())
PAIRS = [(version, event) for version in RELEASED for event in SCHEMAS]
NAMED = {name: event for event, name in SCHEMAS.items()}


def name_of(value: Any) -> str:
    return value.name if isinstance(value, Path) else value.__name__


def released(version: Path, event: type[events.Event]) -> Schema:
    file = version / f"{SCHEMAS[event]}.schema.json"
    if not file.is_file():
        pytest.skip(f"{SCHEMAS[event]} is newer than {version.name}")
    return orjson.loads(file.read_bytes())


# ---------------------------------------------------------------------- what was released


@pytest.mark.parametrize(("version", "event"), PAIRS, ids=name_of)
def test_a_released_schema_is_not_broken(version: Path, event: type[events.Event]) -> None:
    assert changes(released(version, event), schema_of(event)) == []


@pytest.mark.parametrize("version", RELEASED, ids=name_of)
def test_no_event_is_gone(version: Path) -> None:
    for file in version.glob("*.schema.json"):
        assert file.name.removesuffix(".schema.json") in NAMED


@pytest.mark.parametrize("version", RELEASED, ids=name_of)
def test_released_examples_are_read(version: Path) -> None:
    examples = list((version / "examples").glob("*.json"))
    assert {example.name.partition(".")[0] for example in examples} >= {
        file.name.partition(".")[0] for file in version.glob("*.schema.json")
    }
    for example in examples:
        event = NAMED[example.name.partition(".")[0]]
        assert holds(json.loads(encode(decode(event, example.read_bytes()))), json.loads(example.read_bytes())), example


@pytest.mark.parametrize(("version", "event"), PAIRS, ids=name_of)
def test_released_readers_accept_what_is_written_now(version: Path, event: type[events.Event]) -> None:
    reader = jsonschema_rs.Draft202012Validator(released(version, event), validate_formats=True)
    for example in (schema_folder() / "examples").glob(f"{SCHEMAS[event]}.*json"):
        reader.validate(json.loads(encode(decode(event, example.read_bytes()))))


@pytest.mark.parametrize("version", RELEASED, ids=name_of)
def test_topics_keys_and_headers_stay(version: Path) -> None:
    old, new = (
        yaml.safe_load((folder / "asyncapi.yaml").read_text(encoding="utf-8")) for folder in (version, schema_folder())
    )
    for name, channel in old["channels"].items():
        assert new["channels"][name]["address"] == channel["address"]
        assert new["channels"][name]["messages"].keys() >= channel["messages"].keys()
    for name, message in old["components"]["messages"].items():
        now = new["components"]["messages"][name]
        assert now["bindings"]["kafka"]["key"] == message["bindings"]["kafka"]["key"]
        assert changes(header_schema(old, message), header_schema(new, now)) == []


# ---------------------------------------------------------------------- that the check bites

OLD: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:stream-worker:schema:thing:1",
    "$defs": {
        "Part": {
            "type": "object",
            "properties": {"key": {"type": "string", "maxLength": 9}, "size": {"type": "integer", "minimum": 0}},
            "required": ["key"],
        }
    },
    "type": "object",
    "properties": {
        "version": {"type": "integer", "const": 1, "default": 1},
        "name": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-z]+$"},
        "status": {"type": "string", "enum": ["whole", "failed"]},
        "count": {"type": "integer", "minimum": 0},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "scale": {"type": "number", "exclusiveMinimum": 0},
        "at": {"type": "string", "format": "date-time"},
        "box": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        "part": {"anyOf": [{"$ref": "#/$defs/Part"}, {"type": "null"}], "default": None},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
        "times": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}, "default": {}},
        "run": {"type": "string", "default": "live"},
        "note": {"type": "string"},
    },
    "required": ["name", "status"],
}

OLD_READERS, NEW_READERS = "old readers refuse new events", "new readers refuse old events"


def at(schema: Schema, path: str) -> Any:
    for step in path.split("/"):
        schema = schema[int(step)] if step.isdigit() else schema[step]
    return schema


def put(path: str, value: Any) -> Callable[[Schema], None]:
    """Set something in the schema."""
    above, _, last = path.rpartition("/")
    return lambda schema: at(schema, above).update({last: value}) if above else schema.update({last: value})


def drop(path: str) -> Callable[[Schema], None]:
    """Take something out of the schema."""
    above, _, last = path.rpartition("/")
    return lambda schema: at(schema, above).pop(last)


def renamed(schema: Schema) -> None:
    schema["properties"]["title"] = schema["properties"].pop("name")
    schema["required"] = ["title", "status"]


def turned(schema: Schema) -> None:
    """The other way round: keys, alternatives and names of types mean nothing by their order."""
    schema["properties"] = dict(reversed(schema["properties"].items()))
    schema["properties"]["part"]["anyOf"].reverse()
    schema["required"].reverse()


P = "properties"
BREAKING = {
    "a required field is gone": (lambda s: (drop(f"{P}/name")(s), s["required"].remove("name")), OLD_READERS),
    "an optional field is gone": (drop(f"{P}/note"), "note: is gone"),
    "a field is renamed": (renamed, OLD_READERS),
    "a field within a part is gone": (drop("$defs/Part/properties/size"), "part.size: is gone"),
    "a field is required no more": (put("required", ["name"]), OLD_READERS),
    "a new field is required": (
        lambda s: (put(f"{P}/new", {"type": "string"})(s), s["required"].append("new")),
        NEW_READERS,
    ),
    "an optional field becomes required": (put("required", ["name", "status", "note"]), NEW_READERS),
    "a required field within a part": (put("$defs/Part/required", ["key", "size"]), NEW_READERS),
    "another type": (put(f"{P}/count/type", "string"), OLD_READERS),
    "integers become numbers": (put(f"{P}/count/type", "number"), OLD_READERS),
    "numbers become integers": (put(f"{P}/share/type", "integer"), NEW_READERS),
    "null is allowed": (put(f"{P}/note", {"anyOf": [{"type": "string"}, {"type": "null"}]}), OLD_READERS),
    "null is not allowed any more": (put(f"{P}/part", {"$ref": "#/$defs/Part"}), NEW_READERS),
    "another enum value": (put(f"{P}/status/enum", ["whole", "failed", "partial"]), OLD_READERS),
    "an enum value less": (put(f"{P}/status/enum", ["whole"]), NEW_READERS),
    "an enum becomes any string": (put(f"{P}/status", {"type": "string"}), OLD_READERS),
    "a string becomes an enum": (put(f"{P}/note/enum", ["a", "b"]), NEW_READERS),
    "another version": (put(f"{P}/version/const", 2), OLD_READERS),
    "a minimum goes up": (put(f"{P}/count/minimum", 1), NEW_READERS),
    "a minimum goes": (drop(f"{P}/count/minimum"), OLD_READERS),
    "a maximum goes up": (put(f"{P}/share/maximum", 2), OLD_READERS),
    "zero is allowed": (
        lambda s: (drop(f"{P}/scale/exclusiveMinimum")(s), put(f"{P}/scale/minimum", 0)(s)),
        OLD_READERS,
    ),
    "longer strings": (put(f"{P}/name/maxLength", 128), OLD_READERS),
    "shorter strings": (put(f"{P}/name/maxLength", 32), NEW_READERS),
    "a bound within a part": (put("$defs/Part/properties/key/maxLength", 8), NEW_READERS),
    "a new bound": (put(f"{P}/note/maxLength", 1000), NEW_READERS),
    "another pattern": (put(f"{P}/name/pattern", "^[a-z0-9]+$"), OLD_READERS),
    "a new pattern": (put(f"{P}/note/pattern", "^x"), NEW_READERS),
    "no format": (drop(f"{P}/at/format"), OLD_READERS),
    "longer arrays": (put(f"{P}/box/maxItems", 8), OLD_READERS),
    "other items": (put(f"{P}/box/items", {"type": "integer"}), NEW_READERS),
    "other values of a map": (put(f"{P}/times/additionalProperties", {"type": "number"}), OLD_READERS),
    "fields that are not known are refused": (put("additionalProperties", False), NEW_READERS),
    "another default": (put(f"{P}/run/default", "first"), "run: without it"),
    "no default": (drop(f"{P}/run/default"), "run: without it"),
    "another name": (put("$id", "urn:stream-worker:schema:thing:2"), "$id has changed"),
    "another dialect": (put("$schema", "http://json-schema.org/draft-07/schema#"), "$schema has changed"),
}


@pytest.mark.parametrize("change", BREAKING)
def test_what_breaks_somebody_is_seen(change: str) -> None:
    alter, says = BREAKING[change]
    new = copy.deepcopy(OLD)
    alter(new)
    assert any(says in line for line in changes(OLD, new)), changes(OLD, new)


HARMLESS = {
    "nothing": lambda s: None,
    "another description": put("description", "Better words."),
    "a description of a field": put(f"{P}/name/description", "As the publisher calls it."),
    "a new optional field": put(f"{P}/new", {"type": "string", "maxLength": 10}),
    "a new optional field with a default": put(f"{P}/new", {"type": "boolean", "default": False}),
    "a new optional field that may be null": put(f"{P}/new", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    "a new optional part": lambda s: (
        put("$defs/New", {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})(s),
        put(f"{P}/new", {"$ref": "#/$defs/New"})(s),
    ),
    "a new optional field within a part": put("$defs/Part/properties/new", {"type": "string"}),
    "a closed list in a new field": put(f"{P}/new", {"type": "string", "enum": ["a", "b"]}),
    "a part has another name": lambda s: (
        put("$defs/Piece", s["$defs"].pop("Part"))(s),
        put(f"{P}/part/anyOf", [{"$ref": "#/$defs/Piece"}, {"type": "null"}])(s),
        put(f"{P}/parts/items", {"$ref": "#/$defs/Piece"})(s),
    ),
    "a part is written out": lambda s: put(f"{P}/parts/items", s["$defs"]["Part"])(s),
    "another order": turned,
}


@pytest.mark.parametrize("change", HARMLESS)
def test_what_breaks_nobody_is_let_pass(change: str) -> None:
    new = copy.deepcopy(OLD)
    HARMLESS[change](new)
    assert changes(OLD, new) == []


@pytest.mark.parametrize(
    "alter",
    [
        put(f"{P}/name/not", {"const": "x"}),
        put(f"{P}/new", {"oneOf": [{"type": "string"}]}),
        put(f"{P}/note/type", ["string", "null"]),
        put(f"{P}/box/prefixItems", []),
        put(f"{P}/part/anyOf/0/minProperties", 1),
        put(f"{P}/parts/items", {"$ref": "other.json"}),
        put(f"{P}/parts/items/maxProperties", 3),
    ],
)
def test_a_keyword_that_it_does_not_know_is_said(alter: Callable[[Schema], None]) -> None:
    new = copy.deepcopy(OLD)
    alter(new)
    with pytest.raises(UnknownKeywordError):
        changes(OLD, new)


def test_a_type_that_holds_itself_has_an_end() -> None:
    tree: Schema = {"type": "object", "properties": {"leaves": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}
    old = {"$defs": {"Tree": tree}, "$ref": "#/$defs/Tree"}
    new = copy.deepcopy(old)
    assert changes(old, new) == []
    new["$defs"]["Tree"]["required"] = ["leaves"]
    assert "new readers refuse old events: leaves: may be absent" in changes(old, new)


def parts(schema: Any, steps: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where everything is that a schema asserts, and that could be taken out of it."""
    named = steps and steps[-1] in ("properties", "$defs")
    for name, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if named or isinstance(schema, list) or name not in ANNOTATIONS - {"$defs"}:
            if isinstance(value, dict | list):
                yield from parts(value, (*steps, name))
            says_nothing = (
                value is True  # any other field may be there: so it is without this
                or (name == "type" and not named and schema.keys() & {"const", "enum"})
                or (value == {"type": "integer"} and isinstance(schema, list) and {"type": "number"} in schema)
            )
            if not says_nothing and name not in ("$defs", "properties"):
                yield (*steps, name)


@pytest.mark.parametrize("event", SCHEMAS, ids=name_of)
def test_whatever_is_taken_out_of_our_schemas_is_missed(event: type[events.Event]) -> None:
    """Each field, bound, alternative, item and keyword by itself: somebody is broken by it, or a type is not known."""
    old = schema_of(event)
    places = list(parts(old))
    assert len(places) > 5
    for *above, last in places:
        new = copy.deepcopy(old)
        holder = new
        for step in above:
            holder = holder[step]
        del holder[last]
        try:
            found = changes(old, new)
        except UnknownKeywordError:
            continue
        assert found, (*above, last)


def test_every_release_left_its_schemas() -> None:
    log = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert {version.name for version in RELEASED} >= set(re.findall(r"^## \[(\d+\.\d+\.\d+)\]", log, re.MULTILINE))
