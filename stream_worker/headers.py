"""The headers of our events: CloudEvents' Kafka binding in binary mode, and the W3C trace."""

from __future__ import annotations

import uuid

from stream_worker import events
from stream_worker.contract import ce_type
from stream_worker.records import Headers

TRACEPARENT = "traceparent"


def cloud_event(event: events.Event, source: str, trace: Headers = ()) -> Headers:
    """CloudEvents 1.0 headers of an event that `source` (`publisher`, `detector/detector-0`...) writes.

    The first `traceparent` among `trace`, the headers of the record that led to this event, goes along.
    """
    lines = [
        ("ce_specversion", b"1.0"),
        ("ce_id", uuid.uuid4().hex.encode()),
        ("ce_type", ce_type(type(event)).encode()),
        ("ce_source", f"stream_worker/{source}".encode()),
        ("ce_time", events.utc_now().isoformat().encode()),
        ("content-type", b"application/json"),
    ]
    inherited = next((value for name, value in trace if name == TRACEPARENT), None)
    if inherited is not None:
        lines.append((TRACEPARENT, inherited))
    return tuple(lines)
