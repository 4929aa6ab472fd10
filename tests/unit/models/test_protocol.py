"""Frames: what goes in comes out, and nothing that is not a frame gets far."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_worker.models import protocol
from stream_worker.models.protocol import Message, ModelFault, ProtocolError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def _through_pipe(header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes] | None:
    reader, writer = os.pipe()
    try:
        sender = threading.Thread(target=protocol.write_frame, args=(writer, header, body))
        sender.start()
        frame = protocol.read_frame(reader)
        sender.join()
        return frame
    finally:
        os.close(reader)
        os.close(writer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(type_=st.sampled_from(Message), task=json_values, body=st.binary(max_size=300_000))
def test_a_frame_survives_the_pipe(type_: Message, task: Any, body: bytes) -> None:
    assert _through_pipe({"type": type_, "id": 7, "task": task}, body) == (
        {"type": type_, "id": 7, "task": task},
        body,
    )


def test_frames_follow_each_other(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    protocol.write_frame(writer, {"type": "TASK", "id": 1}, b"one")
    protocol.write_frame(writer, {"type": "SHUTDOWN"})
    os.close(writer)
    assert protocol.read_frame(reader) == ({"type": Message.TASK, "id": 1}, b"one")
    assert protocol.read_frame(reader) == ({"type": Message.SHUTDOWN}, b"")
    assert protocol.read_frame(reader) is None


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (b"Downloading model: 100%|####|\n", "not a frame"),
        (b"SWM1\x00", "inside a frame"),
        (struct.pack("<4sIQ", b"SWM1", 0xFFFFFFFF, 0), "over the limit"),
        (struct.pack("<4sIQ", b"SWM1", 2, 1 << 62), "over the limit"),
        (struct.pack("<4sIQ", b"SWM1", 8, 0) + b"{", "inside a frame"),
        (struct.pack("<4sIQ", b"SWM1", 2, 4) + b"{}" + b"abc", "inside a frame"),
        (struct.pack("<4sIQ", b"SWM1", 3, 0) + b"{x}", "not JSON"),
        (struct.pack("<4sIQ", b"SWM1", 2, 0) + b"\xff\xff", "not JSON"),
        (struct.pack("<4sIQ", b"SWM1", 26, 0) + b'{"type":"RESULT", "x":NaN}', "not JSON: it holds NaN"),
        (struct.pack("<4sIQ", b"SWM1", 31, 0) + b'{"type":"RESULT","x":-Infinity}', "not JSON: it holds -Infinity"),
        (struct.pack("<4sIQ", b"SWM1", 2, 0) + b"[]", "not a JSON object"),
        (struct.pack("<4sIQ", b"SWM1", 2, 0) + b"{}", "unknown message type"),
        (struct.pack("<4sIQ", b"SWM1", 14, 0) + b'{"type":"RUN"}', "unknown message type"),
        (struct.pack("<4sIQ", b"SWM1", 12, 0) + b'{"type": []} '[:12], "unknown message type"),
        (struct.pack("<4sIQ", b"SWM1", 50_000, 0) + b"[" * 50_000, "not JSON"),
    ],
)
def test_what_is_no_frame_is_a_protocol_error(pipe: tuple[int, int], sent: bytes, complaint: str) -> None:
    reader, writer = pipe
    os.write(writer, sent)
    os.close(writer)
    with pytest.raises(ProtocolError, match=complaint):
        protocol.read_frame(reader)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", object()])
def test_a_header_that_is_not_json_is_refused_before_anything_is_written(pipe: tuple[int, int], value: Any) -> None:
    reader, writer = pipe
    with pytest.raises(ProtocolError, match="JSON"):
        protocol.write_frame(writer, {"type": "RESULT", "value": value})
    os.close(writer)
    assert protocol.read_frame(reader) is None


def test_an_oversized_body_is_refused_by_the_sender() -> None:
    with pytest.raises(ProtocolError, match="over the limit"):
        protocol.pack({"type": "RESULT"}, protocol.MAX_BODY_BYTES + 1)


def test_a_fault_shows_its_message_and_keeps_its_code() -> None:
    fault = ModelFault("empty_mask", "the mask is empty")
    assert (fault.code, fault.message, str(fault)) == ("empty_mask", "the mask is empty", "the mask is empty")


def test_the_childs_side_needs_only_the_standard_library() -> None:
    """The child may run in an interpreter that has nothing else (-S: no site-packages)."""
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-S", "-c", "import stream_worker.models.protocol, stream_worker.models.child"],
        check=True,
        cwd=root,
        timeout=60,
    )
