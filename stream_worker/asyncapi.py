"""The AsyncAPI 3 document: topics, events, keys, headers, who receives and who sends, from the code that does it.

`make schemas` writes it to `schemas/asyncapi.yaml`; a test holds the two together. PyYAML comes with the
development tools only: nothing needs it where the service runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stream_worker import events, topics
from stream_worker.aggregator.service import Aggregator
from stream_worker.contract import SCHEMAS, ce_type, schema_folder
from stream_worker.dead_letters import PREFIX, dead_letter
from stream_worker.detector import Detector
from stream_worker.errors import Reason, RecordFault
from stream_worker.headers import TRACEPARENT, cloud_event
from stream_worker.letters import RETRIES
from stream_worker.reconstructor import Reconstructor
from stream_worker.records import Received
from stream_worker.settings import Kafka

FILE = "asyncapi.yaml"
SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
BINDING = {"bindingVersion": "0.5.0"}
DEAD_LETTER = "dead-letter"
CLOUD_EVENT = "cloud-event"
INTERNAL = "internal"

DESCRIPTION = """\
Photos go in, 3D objects come out. Your app sends to `images` and receives `completed-images`; it may receive what lies
between. The operations below are the service's own: what it receives, you send.

- Values are JSON. Readers accept fields that they don't know, and labels, model names and reason codes that are new.
- Receive with `isolation.level=read_committed`, or you see what was never committed.
- A deployment may have a prefix before every topic and group (`kafka.prefix`).
- Bytes (photos, PLY files) are in the object store; events hold references to them.
"""

CARRIES: Mapping[str, tuple[type[events.Event], ...]] = {
    topics.IMAGES: (events.ImageEvent,),
    topics.OBJECTS: (events.ObjectEvent,),
    topics.DETECTIONS: (events.DetectionEvent,),
    topics.RECONSTRUCTIONS: (events.ReconstructionEvent,),
    topics.COMPLETED: (events.CompletedImageEvent,),
    topics.CHANGELOG: (events.JoinStateEvent, events.JoinFloorEvent),
    topics.DEAD_LETTERS: (),
}
"""The events of each topic. Dead letters are what could not be read, whatever that was."""

GROUPS = (Detector, Reconstructor, Aggregator)
SENDS: Mapping[str, tuple[str, ...]] = {
    # An object that no event can hold has failed already: the detector says so itself.
    Detector.name: (topics.OBJECTS, topics.DETECTIONS, topics.RECONSTRUCTIONS, topics.DEAD_LETTERS),
    Reconstructor.name: (topics.RECONSTRUCTIONS, topics.DEAD_LETTERS),
    Aggregator.name: (topics.COMPLETED, topics.CHANGELOG, topics.DEAD_LETTERS),
}
"""What each group writes, in the transaction that moves its offsets."""

_IMAGE_KEY = {"type": "string", "description": "image_id, UTF-8."}
_KEYS: Mapping[type[events.Event], Any] = {
    events.ObjectEvent: {"type": "string", "description": "object_id. The key does not choose the partition."},
    events.JoinStateEvent: {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 2,
        "maxItems": 3,
        "description": "As JSON: [image_id, run], or [image_id, run, object_id] of a result.",
    },
    events.JoinFloorEvent: {"type": "array", "maxItems": 0, "description": "As JSON: []."},
}

_HEADERS: Mapping[str, Any] = {
    "ce_specversion": {"const": "1.0"},
    "ce_id": {"description": "Another one for every record."},
    "ce_type": {},
    "ce_source": {"description": "What wrote it, such as `stream_worker/detector/detector-0`."},
    "ce_time": {"format": "date-time"},
    "content-type": {"const": "application/json"},
    TRACEPARENT: {"description": "W3C Trace Context, from the photo on to its outcome."},
}
_WHY: Mapping[str, Any] = {
    "topic": {"description": "Where it was, without the deployment's prefix."},
    "partition": {"pattern": "^[0-9]+$"},
    "offset": {"pattern": "^[0-9]+$"},
    "stage": {"description": "The group that gave it up."},
    "reason": {"description": "A reason code (stream_worker.errors.Reason)."},
    "message": {"maxLength": 1000},
    "attempts": {"pattern": "^[0-9]+$"},
    "first_at": {"format": "date-time"},
    "last_at": {"format": "date-time", "description": "Of the last attempt."},
}


def document(folder: Path) -> dict[str, Any]:
    """The document, for a file that stands in `folder` beside the schemas and their `examples/`."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "stream_worker",
            "version": version("stream-worker"),
            "description": DESCRIPTION,
            "license": {"name": "AGPL-3.0-or-later"},
            "tags": [{"name": INTERNAL, "description": "Ours alone: nobody else should read or write it."}],
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{host}:{port}",
                "protocol": "kafka",
                "variables": {"host": {"default": "localhost"}, "port": {"default": "9092"}},
            }
        },
        "channels": {topic.name: _channel(topic) for topic in topics.TOPICS},
        "operations": dict(_operations()),
        "components": {
            "messages": {
                **{name: _message(event, name, folder) for event, name in SCHEMAS.items()},
                DEAD_LETTER: _dead_letter(),
            },
            "messageTraits": {CLOUD_EVENT: {"headers": _cloud_event()}},
        },
    }


def _names(topic: str) -> list[str]:
    return [SCHEMAS[event] for event in CARRIES[topic]] or [DEAD_LETTER]


def _marks(topic: str) -> list[dict[str, str]]:
    return [{"name": INTERNAL}] if topic == topics.CHANGELOG else []


def _channel(topic: topics.Topic) -> dict[str, Any]:
    kafka = Kafka()
    return {
        "address": topic.name,
        "summary": topic.purpose,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _names(topic.name)},
        "tags": _marks(topic.name),
        "bindings": {
            "kafka": {
                "partitions": topics.partitions_of(topic, kafka),
                "topicConfiguration": {
                    name: _typed(name, value) for name, value in topics.config_of(topic, kafka).items()
                },
                **BINDING,
            }
        },
    }


def _typed(name: str, value: str) -> Any:
    """A topic's setting as the binding has it: policies are a list, numbers are numbers."""
    if name == "cleanup.policy":
        return value.split(",")
    return float(value) if "." in value else int(value) if value.isdigit() else value


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for group in GROUPS:
        group_id = {"groupId": {"type": "string", "const": group.name}, **BINDING}
        for topic in group.topics:
            name, operation = _operation(group.name, "receive", topic)
            yield name, {**operation, "bindings": {"kafka": group_id}}
        if topics.CHANGELOG in SENDS[group.name]:  # read back when a partition is taken over, outside the group
            yield _operation(group.name, "receive", topics.CHANGELOG)
        for topic in SENDS[group.name]:
            yield _operation(group.name, "send", topic)


def _operation(group: str, action: str, topic: str) -> tuple[str, dict[str, Any]]:
    channel = f"#/channels/{topic}"
    return f"{group}-{action}s-{topic}", {
        "action": action,
        "summary": f"The {group} {action}s.",
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in _names(topic)],
        "tags": [{"name": group}, *_marks(topic)],
    }


def _message(event: type[events.Event], name: str, folder: Path) -> dict[str, Any]:
    examples = sorted((folder / "examples").glob(f"{name}.*json"), key=lambda path: path.stem)
    return {
        "name": ce_type(event),
        "title": name,
        "description": inspect.getdoc(event),
        "headers": {
            "type": "object",
            "properties": {"ce_type": {"type": "string", "const": ce_type(event)}},
            # An app need not write CloudEvents' headers: nothing reads them in a photo's event.
            **({"required": []} if event is events.ImageEvent else {}),
        },
        "traits": [{"$ref": f"#/components/messageTraits/{CLOUD_EVENT}"}],
        "payload": {"schemaFormat": SCHEMA_FORMAT, "schema": {"$ref": f"./{name}.schema.json"}},
        "bindings": {"kafka": {"key": _KEYS.get(event, _IMAGE_KEY), **BINDING}},
        "examples": [{"name": path.stem, "payload": {"$ref": f"./examples/{path.name}"}} for path in examples],
    }


def _cloud_event() -> dict[str, Any]:
    written = [header for header, _ in cloud_event(events.ImageEvent(image_id="a", url="u"), "")]
    return _header_schema({header: _HEADERS[header] for header in (*written, TRACEPARENT)}, written)


def _dead_letter() -> dict[str, Any]:
    now = events.utc_now()
    letter = dead_letter(Received("", 0, 0, 0, b"", b""), RecordFault(Reason.INTERNAL_ERROR, ""), "", 1, now, now)
    written = [header for header, _ in letter.headers]
    headers = {header: _WHY[header.removeprefix(PREFIX)] for header in written}
    headers[RETRIES] = {"pattern": "^[0-9]+$", "description": "How often it was tried again by hand."}
    return {
        "name": DEAD_LETTER,
        "title": DEAD_LETTER,
        "description": inspect.getdoc(dead_letter),
        "contentType": "application/octet-stream",
        "headers": _header_schema(headers, written),
        "payload": {"description": "The record's value, byte for byte; it may be absent, and need not be JSON."},
        "bindings": {"kafka": {"key": {"description": "As it came; may be absent."}, **BINDING}},
    }


def _header_schema(headers: Mapping[str, Any], required: Iterable[str]) -> dict[str, Any]:
    """Of headers in UTF-8; there may be others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {name: {"type": "string", **schema} for name, schema in headers.items()},
    }


def text(content: Mapping[str, Any]) -> str:
    """The document as YAML: longer texts as blocks, nothing by alias."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, string)
    return yaml.dump(dict(content), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else schema_folder()
    (where / FILE).write_text(text(document(where)), encoding="utf-8")
