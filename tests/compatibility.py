"""Whether a changed schema still goes together with the one that was released.

`changes(old, new)` names all that would break somebody: a reader of the old schema that gets new events, a reader of
the new one that gets old events (both refuse what their schema does not accept), or whoever relies on a field that is
gone.

A structural check of the keywords that our schemas use; one that it does not know is an error, never passed over. It
is strict where it can't decide: another pattern is a change, whatever the two accept. One thing is assumed: nobody
writes a field that no schema names, so a new field's name is free. (Where `additionalProperties` is written out, names
are the writer's to choose, and no new one is free.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

Schema = dict[str, Any]

ANNOTATIONS = {"$schema", "$id", "$defs", "description", "default"}
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems")
UPPER = ("maximum", "maxLength", "maxItems")
EXACT = ("pattern", "format")
STRUCTURE = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const", "$ref"}
KNOWN = ANNOTATIONS | STRUCTURE | {*LOWER, *UPPER, *EXACT}


class UnknownKeywordError(Exception):
    """A schema says what this check does not understand: it has to learn it first."""


def changes(old: Schema, new: Schema) -> list[str]:
    """What in `new` breaks readers or writers of `old`, one line each; none, if nothing does.

    Raises UnknownKeywordError.
    """
    lines = [f"{name} has changed" for name in ("$schema", "$id") if old.get(name) != new.get(name)]
    lines += [f"old readers refuse new events: {line}" for line in _Check(reader=old, writer=new).refusals()]
    lines += [f"new readers refuse old events: {line}" for line in _Check(reader=new, writer=old).refusals()]
    return lines + list(_lost(old, new))


def holds(whole: Any, part: Any) -> bool:
    """Whether all fields of a JSON value are in another one, with the same values; that one may have more."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and holds(whole[name], part[name]) for name in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(holds, whole, part))
    return bool(whole == part)


def header_schema(document: dict[str, Any], message: dict[str, Any]) -> Schema:
    """The schema of a message's headers in an AsyncAPI document, its traits' included."""
    own: Schema = message["headers"]
    for trait in message.get("traits", []):
        shared = document["components"]["messageTraits"][trait["$ref"].rpartition("/")[2]]["headers"]
        own = {**shared, **own, "properties": {**shared["properties"], **own["properties"]}}
    return own


@dataclass(frozen=True)
class _Check:
    """Is all that the writer's schema allows accepted by the reader's? Where the answer is not surely yes, it is no."""

    reader: Schema
    writer: Schema

    def refusals(self) -> Iterator[str]:
        return self._compare(self.reader, self.writer, "", frozenset())

    def _compare(self, reader: Schema, writer: Schema, at: str, under: frozenset[tuple[str, str]]) -> Iterator[str]:
        if "$ref" in reader or "$ref" in writer:
            pair = (json.dumps(reader, sort_keys=True), json.dumps(writer, sort_keys=True))
            if pair in under:  # a type that holds itself
                return
            under |= {pair}
        reader, writer = _resolved(reader, self.reader, at), _resolved(writer, self.writer, at)
        if "enum" in writer or "const" in writer:
            yield from self._values(reader, writer, at)
        elif "anyOf" in writer:
            for option in writer["anyOf"]:
                yield from self._compare(reader, option, at, under)
        elif "anyOf" in reader:
            yield from self._alternatives(reader["anyOf"], writer, at, under)
        elif "enum" in reader or "const" in reader:
            yield f"{_place(at)}: only {json.dumps(reader.get('enum', [reader.get('const')]))} is accepted"
        else:
            yield from self._kinds(reader, writer, at)
            yield from self._bounds(reader, writer, at)
            yield from self._items(reader, writer, at, under)
            yield from self._fields(reader, writer, at, under)

    def _alternatives(
        self, options: list[Schema], writer: Schema, at: str, under: frozenset[tuple[str, str]]
    ) -> Iterator[str]:
        """One must take all that is written; else what the one of the same type refuses is said."""
        tried = {
            _resolved(option, self.reader, at).get("type"): list(self._compare(option, writer, at, under))
            for option in options
        }
        if all(tried.values()):
            yield from tried.get(writer.get("type"), [f"{_place(at)}: {writer.get('type') or 'anything'}"])

    def _values(self, reader: Schema, writer: Schema, at: str) -> Iterator[str]:
        """Finitely many values: each is tried."""
        validator = jsonschema_rs.Draft202012Validator({**reader, "$defs": self.reader.get("$defs", {})})
        for value in writer.get("enum", [writer.get("const")]):
            if not validator.is_valid(value):
                yield f"{_place(at)}: {json.dumps(value)}"

    def _kinds(self, reader: Schema, writer: Schema, at: str) -> Iterator[str]:
        accepted, written = reader.get("type"), writer.get("type")
        if accepted not in (None, written) and (accepted, written) != ("number", "integer"):
            yield f"{_place(at)}: {written or 'anything'}, where {accepted} is expected"

    def _bounds(self, reader: Schema, writer: Schema, at: str) -> Iterator[str]:
        for name in (*LOWER, *UPPER, *EXACT):
            if name not in reader:
                continue
            wanted, given = reader[name], writer.get(name)
            if name in EXACT:
                fits = given == wanted
            elif name in LOWER:
                fits = given is not None and given >= wanted
            else:
                fits = given is not None and given <= wanted
            if not fits:
                yield f"{_place(at)}: {name} is {wanted} for the reader, {given} for the writer"

    def _items(self, reader: Schema, writer: Schema, at: str, under: frozenset[tuple[str, str]]) -> Iterator[str]:
        if "items" in reader:
            yield from self._compare(reader["items"], writer.get("items", {}), f"{at}[]", under)

    def _fields(self, reader: Schema, writer: Schema, at: str, under: frozenset[tuple[str, str]]) -> Iterator[str]:
        known, written = reader.get("properties", {}), writer.get("properties", {})
        for name in reader.get("required", []):
            if name not in writer.get("required", []):
                yield f"{_place(at, name)}: may be absent"
        others, any_name = reader.get("additionalProperties", True), writer.get("additionalProperties", False)
        if others is False:
            yield f"{_place(at)}: fields that are not known are refused"
        for name, schema in written.items():
            if name in known:
                yield from self._compare(known[name], schema, f"{at}.{name}", under)
            elif isinstance(others, dict):
                yield from self._compare(others, schema, f"{at}.{name}", under)
        if any_name is not False:
            free = any_name if isinstance(any_name, dict) else {}
            for name in known.keys() - written.keys():
                yield from self._compare(known[name], free, f"{at}.{name}", under)
            if isinstance(others, dict):
                yield from self._compare(others, free, f"{at}.*", under)
        elif isinstance(others, dict):
            yield f"{_place(at)}: fields that are not known must be {json.dumps(others)}"


def _lost(old: Schema, new: Schema) -> Iterator[str]:
    """What no reader refuses, and some reader misses all the same: fields that are gone, defaults that differ."""
    before, after = dict(_named_fields(old, old, "", ())), dict(_named_fields(new, new, "", ()))
    gone = [place for place in before if place not in after]
    for place in gone:
        if not any(place.startswith((f"{other}.", f"{other}[")) for other in gone):
            yield f"{_place(place)}: is gone"
    for place in before.keys() & after.keys():
        then, now = (json.dumps(fields[place].get("default")) for fields in (before, after))
        if then != now:
            yield f"{_place(place)}: without it, {then} was meant, now {now}"


def _named_fields(schema: Schema, root: Schema, at: str, under: tuple[str, ...]) -> Iterator[tuple[str, Schema]]:
    """Every field that a schema names, wherever it is, by its place."""
    if (reference := schema.get("$ref")) in under:
        return
    under = (*under, reference) if reference else under
    schema = _resolved(schema, root, at)
    for name, field in schema.get("properties", {}).items():
        yield f"{at}.{name}", field
        yield from _named_fields(field, root, f"{at}.{name}", under)
    if "items" in schema:
        yield from _named_fields(schema["items"], root, f"{at}[]", under)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _named_fields(schema["additionalProperties"], root, f"{at}.*", under)
    for option in schema.get("anyOf", []):
        yield from _named_fields(option, root, at, under)


def _resolved(schema: Schema, root: Schema, at: str) -> Schema:
    """The schema itself, where it is a reference to one. Raises UnknownKeywordError."""
    if unknown := schema.keys() - KNOWN:
        raise UnknownKeywordError(f"{_place(at)}: {', '.join(sorted(unknown))}")
    if not isinstance(schema.get("type", ""), str):
        raise UnknownKeywordError(f"{_place(at)}: several types at once")
    asserting = schema.keys() - ANNOTATIONS
    if asserting & {"anyOf", "$ref"} and len(asserting) > 1:
        raise UnknownKeywordError(f"{_place(at)}: {', '.join(sorted(asserting))} together")
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].removeprefix("#/$defs/")
    if name not in root.get("$defs", {}):
        raise UnknownKeywordError(f"{_place(at)}: a reference to {schema['$ref']}")
    return _resolved(root["$defs"][name], root, at)


def _place(at: str, *names: str) -> str:
    return ".".join([at, *names]).lstrip(".") or "the event"
