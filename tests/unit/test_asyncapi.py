"""The AsyncAPI document tells of what the code does, and every reference in it leads somewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import yaml

from stream_worker import topics
from stream_worker.asyncapi import CARRIES, FILE, GROUPS, INTERNAL, SENDS, document, text
from stream_worker.contract import SCHEMAS, decode, schema_folder
from stream_worker.dead_letters import dead_letter
from stream_worker.errors import Reason, RecordFault
from stream_worker.events import utc_now
from stream_worker.headers import cloud_event
from stream_worker.records import Headers, Received
from tests.compatibility import header_schema

FOLDER = schema_folder()
DOCUMENT: dict[str, Any] = yaml.safe_load((FOLDER / FILE).read_text(encoding="utf-8"))
MESSAGES = DOCUMENT["components"]["messages"]


def test_the_file_is_what_the_code_means() -> None:
    """If this fails: `make schemas`."""
    assert (FOLDER / FILE).read_text(encoding="utf-8") == text(document(FOLDER))


def test_it_tells_of_every_topic_event_and_group() -> None:
    assert list(DOCUMENT["channels"]) == [topic.name for topic in topics.TOPICS] == list(CARRIES)
    assert sorted(event for carried in CARRIES.values() for event in map(SCHEMAS.get, carried)) == sorted(
        SCHEMAS.values()
    )
    assert set(SENDS) == {group.name for group in GROUPS}


def test_internal_topics_are_marked() -> None:
    marked = [name for name, channel in DOCUMENT["channels"].items() if {"name": INTERNAL} in channel["tags"]]
    assert marked == [topics.CHANGELOG]


@pytest.mark.parametrize("event", SCHEMAS, ids=SCHEMAS.values())
def test_the_headers_are_those_that_are_written(event: Any) -> None:
    (example,) = FOLDER.glob(f"examples/{SCHEMAS[event]}.json")
    trace = (("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)
    written = cloud_event(decode(event, example.read_bytes()), "detector/detector-0", trace)
    assert complaints(SCHEMAS[event], written) == []
    wrong = tuple((name, b"other" if name == "ce_type" else value) for name, value in written)
    assert complaints(SCHEMAS[event], wrong) != []


def test_the_headers_of_a_dead_letter_are_those_that_are_written() -> None:
    record = Received("images", 0, 17, 0, b"key", b"value", (("ce_id", b"1"),))
    letter = dead_letter(record, RecordFault(Reason.TOO_LARGE, "why"), "detector", 1, utc_now(), utc_now())
    assert complaints("dead-letter", letter.headers) == []
    assert complaints("dead-letter", record.headers) != []


def complaints(message: str, written: Headers) -> list[str]:
    """What the document's schema of a message's headers has against headers; also those that it does not name."""
    schema = header_schema(DOCUMENT, MESSAGES[message])
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    found = [error.message for error in validator.iter_errors({name: value.decode() for name, value in written})]
    return found + [name for name in schema.get("required", []) if name not in dict(written)]


def test_every_reference_leads_somewhere() -> None:
    references = list(referred(DOCUMENT))
    assert len(references) > 50
    for reference in references:
        if reference.startswith("#/"):
            found = DOCUMENT
            for step in reference.removeprefix("#/").split("/"):
                found = found[step]
        else:
            json.loads((FOLDER / reference).read_bytes())


def test_every_example_is_named() -> None:
    named = {reference for reference in referred(DOCUMENT) if reference.startswith("./examples/")}
    assert named == {f"./examples/{file.name}" for file in (FOLDER / "examples").iterdir()}


def referred(node: Any) -> Iterator[str]:
    """Every reference in a document."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from referred(value)
    elif isinstance(node, list):
        for value in node:
            yield from referred(value)
