"""The messages between a model child and its host: frames of JSON header and raw bytes on a private pipe.

A frame is the 4 bytes `SWM1`, the header's length (u32) and the body's length (u64), both little-endian,
then the header (a JSON object in UTF-8 with a `type`) and the body's bytes.

The child may run in another interpreter (Python 3.10 and later) that has none of the service's
dependencies. So this file needs the standard library only: its JSON is `json`, not orjson.

| type | from | header | body |
|---|---|---|---|
| INIT | host | generation, model `module:Class`, options, heartbeat_s | - |
| INIT | child | generation, and info + times + prepares (it is ready), or fault {code, message} | - |
| PREPARE | host | generation, id, task: of the task that comes next, while another is in hand | payload |
| TASK | host | generation, id, and task; or `prepared`, where a PREPARE of this id has brought the task | payload |
| RESULT | child | generation, id, busy_s, and result, or fault, or error {type, message} | payload |
| BODY | child | the payload of the RESULT that said `body_later`: as a RESULT, whose result may name a file | payload |
| HEARTBEAT | child | generation, state `loading`/`ready`/`busy`, id of the task in hand, rss_bytes, `gpu` | - |
| SHUTDOWN | host | generation | - |
"""

from __future__ import annotations

import json
import os
import struct
import sys
import traceback
from enum import Enum
from typing import Any

MAGIC = b"SWM1"
PREFIX = struct.Struct("<4sIQ")

MAX_HEADER_BYTES = 32 * 1024 * 1024
"""Measured: 6.5 kB a mask at 12 megapixels; 300 of them are 2 MB."""

MAX_BODY_BYTES = 1024 * 1024 * 1024
"""A PLY of 4 million Gaussians of 62 floats is 1 GB; usual ones are 5 to 60 MB."""

MAX_MESSAGE_CHARS = 500

_CHUNK = 1024 * 1024


class Message(str, Enum):  # noqa: UP042  (see below)
    """The types of a message. (`StrEnum` came with Python 3.11: the child may run on 3.10.)"""

    INIT = "INIT"
    PREPARE = "PREPARE"
    TASK = "TASK"
    RESULT = "RESULT"
    BODY = "BODY"
    HEARTBEAT = "HEARTBEAT"
    SHUTDOWN = "SHUTDOWN"


class ProtocolError(Exception):
    """What came through the pipe is no frame: its sender can't be trusted any more."""


class NotFiniteError(ProtocolError):
    """A header that can't be written because a number in it is NaN or infinite."""


class ModelFault(Exception):
    """Raised by a model: its input or its options are at fault, in one line that a person can act on.

    Args:
        code: a short snake_case name, such as `weights_missing` or `empty_mask`. Where it is a value of
            `errors.Reason` it becomes the reason of the record's failure.
        message: one line.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


def failure(error: Exception) -> dict[str, Any]:
    """The part of an answer that says what went wrong: a `fault` or an `error`. The traceback goes to the log."""
    if isinstance(error, ModelFault):
        return {"fault": {"code": error.code, "message": error.message}}
    traceback.print_exception(error, file=sys.stderr)
    names = {ancestor.__name__ for ancestor in type(error).__mro__}
    message = one_line(error)
    if "OutOfMemoryError" in names:  # torch's, known by name because torch may not be here
        return {"fault": {"code": "cuda_oom", "message": message}}
    return {
        "error": {
            "type": type(error).__name__,
            "message": message,
            # After a sticky CUDA error every later call in this process fails as well.
            "poisoned": "AcceleratorError" in names or "CUDA error" in str(error),
        }
    }


def one_line(error: Exception) -> str:
    """An error's first line, not too long; or its type, where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:MAX_MESSAGE_CHARS] if lines else type(error).__name__


def pack(header: dict[str, Any], body_size: int = 0) -> bytes:
    """The bytes of a frame up to its body, which the caller writes right behind them.

    Raises:
        NotFiniteError: a number in the header is NaN or Inf, which JSON does not have.
        ProtocolError: the header is not JSON for another cause, or one part is over its limit.
    """
    try:
        encoded = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        kind = NotFiniteError if str(error).startswith("Out of range float") else ProtocolError
        raise kind(f"the header can't be written as JSON: {error}") from error
    _check_sizes(len(encoded), body_size)
    return PREFIX.pack(MAGIC, len(encoded), body_size) + encoded


def unpack_prefix(prefix: bytes) -> tuple[int, int]:
    """The lengths (header, body) that a frame's first `PREFIX.size` bytes tell.

    Raises:
        ProtocolError: not the start of a frame, or a length over its limit. Nothing was allocated.
    """
    if len(prefix) != PREFIX.size:
        raise ProtocolError(f"the pipe closed inside a frame, after {len(prefix)} bytes")
    magic, header_size, body_size = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ProtocolError(f"not a frame: it starts with {prefix!r}")
    _check_sizes(header_size, body_size)
    return header_size, body_size


def unpack_header(encoded: bytes) -> dict[str, Any]:
    """A frame's header, with `type` as a `Message`.

    Raises:
        ProtocolError: not a JSON object, or its type is unknown. NaN and Infinity are no JSON, though Python's
            reader takes them. A number as large as 1e999 still comes out as infinite: whoever uses it must look.
    """
    try:
        header = json.loads(encoded, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the frame's header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError("the frame's header is not a JSON object")
    try:
        header["type"] = Message(header.get("type"))
    except ValueError:
        raise ProtocolError(f"unknown message type {header.get('type')!r}") from None
    return header


def write_frame(fd: int, header: dict[str, Any], body: bytes = b"") -> None:
    """Write one frame, waiting while the pipe is full.

    Raises:
        ProtocolError: see `pack`; nothing was written.
        BrokenPipeError: nobody reads any more.
    """
    for part in (pack(header, len(body)), body):
        view = memoryview(part)
        while view:
            view = view[os.write(fd, view[:_CHUNK]) :]


def read_frame(fd: int) -> tuple[dict[str, Any], bytes] | None:
    """Read one frame, waiting for it. None when the other side closed the pipe between two frames.

    Raises:
        ProtocolError: not a frame, or the pipe closed inside one.
    """
    prefix = _read(fd, PREFIX.size)
    if not prefix:
        return None
    header_size, body_size = unpack_prefix(prefix)
    encoded = _read(fd, header_size)
    body = _read(fd, body_size)
    if len(encoded) != header_size or len(body) != body_size:
        raise ProtocolError("the pipe closed inside a frame")
    return unpack_header(encoded), body


def _read(fd: int, size: int) -> bytes:
    """Up to `size` bytes: fewer only at the end of the stream. Memory grows with what really came."""
    received = bytearray()
    while len(received) < size:
        chunk = os.read(fd, min(_CHUNK, size - len(received)))
        if not chunk:
            break
        received += chunk
    return bytes(received)


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def _check_sizes(header_size: int, body_size: int) -> None:
    if header_size > MAX_HEADER_BYTES:
        raise ProtocolError(f"a header of {header_size} bytes is over the limit of {MAX_HEADER_BYTES}")
    if body_size > MAX_BODY_BYTES:
        raise ProtocolError(f"a body of {body_size} bytes is over the limit of {MAX_BODY_BYTES}")
