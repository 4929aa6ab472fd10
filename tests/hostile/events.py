"""Records that are no events, or events with hostile ids: what must come of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from stream_worker.errors import Reason
from tests.hostile.pictures import DETECTED


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the topic `images`. `reason`: a reason's value, or `DETECTED`."""

    value: bytes | None
    reason: str = Reason.INVALID_EVENT.value
    key: bytes | None = b"key"
    headers: tuple[tuple[str, bytes], ...] = field(default=())


TERMINAL = "\x1b]0;pwned\x07\r\nlevel=critical"
"""Would set a terminal's title, and begin a line of the log of its own."""


def records(good: str) -> dict[str, Record]:
    """Name: record. `good`: the URL of a photo that can be had."""

    def event(**fields: object) -> bytes:
        return orjson.dumps({"version": 1, "url": good, **fields})

    url = orjson.dumps(good)
    return {
        "tombstone": Record(None),
        "neither key nor value": Record(None, key=None),
        "no bytes": Record(b""),
        "no JSON": Record(b"hello"),
        "bad UTF-8": Record(b'{"version":1,"image_id":"\xff\xfe","url":"http://a/"}'),
        "a byte order mark": Record(b"\xef\xbb\xbf" + event(image_id="bom")),
        "nested 100,000 deep": Record(
            b'{"version":1,"image_id":"deep","url":' + url + b',"metadata":' + b"[" * 100_000
        ),
        "nested 100,000 deep, and closed": Record(
            b'{"version":1,"image_id":"deep","url":' + url + b',"metadata":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        ),
        "metadata that no later step could carry": Record(
            b'{"version":1,"image_id":"deeper","url":' + url + b',"metadata":' + b'{"a":' * 230 + b"{}" + b"}" * 231
        ),
        "NaN": Record(b'{"version":1,"image_id":"nan","url":' + url + b',"deadline_s":NaN}'),
        "1e999": Record(b'{"version":1,"image_id":"inf","url":' + url + b',"deadline_s":1e999}'),
        "an integer of 5,000 digits": Record(
            b'{"version":1,"image_id":"long","url":' + url + b',"deadline_s":' + b"9" * 5000 + b"}"
        ),
        "a schema that is not known": Record(event(image_id="new", version=2)),
        "no schema": Record(event(image_id="none", version=None)),
        "a list": Record(b"[]"),
        "no id": Record(event()),
        "an empty id": Record(event(image_id="")),
        "an id of 10 kB": Record(event(image_id="x" * 10_000)),
        "an id that is a number": Record(event(image_id=7)),
        "half a character in the id": Record(b'{"version":1,"image_id":"\\ud800","url":' + url + b"}"),
        "the same name twice": Record(
            b'{"version":1,"image_id":"first","image_id":"twice","url":' + url + b"}", DETECTED
        ),
        "no key": Record(event(image_id="no-key"), DETECTED, key=None),
        "headers that are no text": Record(
            event(image_id="headers"), DETECTED, headers=(("traceparent", b"\xff\x00\xfe"), ("content-type", b"\x80"))
        ),
        "an id that climbs": Record(event(image_id="../../../../tmp/pwned"), DETECTED),
        "an id with NUL": Record(event(image_id="a\x00b"), DETECTED),
        "an id for the terminal": Record(event(image_id=TERMINAL), DETECTED),
        "fields that nobody knows": Record(event(image_id="more", more={"a": [1]}), DETECTED),
    }
