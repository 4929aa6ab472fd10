"""The errors of the service: what the caller may do about one decides its class.

StreamWorkerError
|-- UserError          wrong settings, a missing topic, no Java: one line, then exit code `exit_code`
|-- OutageError        broker, object store or model away: wait with back-off, never blame a record
|-- FatalError         this process can't go on safely: exit, the supervisor starts a new one
|   `-- FencedError    the same: another process owns what we thought was ours
`-- RecordFault        one record can't be done: failed outcome + dead letter, the others go on
    `-- TransientFault the same, but trying again may help: bounded retries first
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Exit(IntEnum):
    """The exit codes of every `stream-worker` command."""

    OK = 0
    FAILED = 1  # the command ran, and its answer is no (an image failed, a check did not hold)
    USAGE = 2  # wrong command line or settings
    BROKER = 3  # the broker can't be reached, or refuses us
    TOPICS = 4  # a topic is missing or has too few partitions
    WEIGHTS = 5  # model weights are missing or not what they should be
    PORT = 6  # a port is in use
    JAVA = 7  # Java, Maven or Kafka's artefacts are missing or too old
    STORE = 8  # the object store can't be reached
    FATAL = 70  # a worker ended itself because it could not go on safely; its supervisor restarts it


class Reason(StrEnum):
    """Why a record failed: the closed list that events, dead letters and metrics use."""

    INVALID_EVENT = "invalid_event"  # not JSON, or does not match the topic's schema
    URL_REFUSED = "url_refused"  # scheme, port or address that we don't fetch from
    FETCH_FAILED = "fetch_failed"  # the host said no (404, 403...), or its name does not resolve
    FETCH_TIMEOUT = "fetch_timeout"  # the host was too slow
    TOO_LARGE = "too_large"  # more bytes or pixels than we accept
    NOT_AN_IMAGE = "not_an_image"  # not a whole JPEG, PNG or WebP
    DECODE_FAILED = "decode_failed"  # the sandboxed decoder died or hit a limit
    DETECT_FAILED = "detect_failed"  # the detector model failed on this image
    EVENT_TOO_LARGE = "event_too_large"  # a mask that fits in no event
    BLOB_MISSING = "blob_missing"  # a referenced blob is not in the store, or is not what it was
    EMPTY_MASK = "empty_mask"  # nothing to reconstruct
    BAD_GEOMETRY = "bad_geometry"  # the model gave no points, or NaN or Inf
    RECONSTRUCT_FAILED = "reconstruct_failed"  # the 3D model failed on this object
    MODEL_TIMEOUT = "model_timeout"  # the model did not answer in time and was killed
    MODEL_CRASHED = "model_crashed"  # the model's process died on this record
    WORKER_CRASHED = "worker_crashed"  # worker after worker died with this record alone in work
    INTERNAL_ERROR = "internal_error"  # a fault of ours: the record is kept, the log has the traceback
    DEADLINE = "deadline"  # the image's deadline passed before this result came


class StreamWorkerError(Exception):
    """The root of every error that the service raises on purpose."""


class UserError(StreamWorkerError):
    """A mistake that the person at the keyboard can mend: shown as one line, never as a traceback."""

    def __init__(self, message: str, exit_code: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Ours(StrEnum):
    """What of ours can be away."""

    BROKER = "broker"
    STORE = "store"
    MODEL = "model"


class OutageError(StreamWorkerError):
    """Something of ours is away. Nothing is wrong with the record in hand: wait, as long as it takes."""

    def __init__(self, message: str, of: Ours = Ours.BROKER) -> None:
        super().__init__(message)
        self.of = of


class FatalError(StreamWorkerError):
    """Going on could break a guarantee (fenced, stuck, timed out in a commit): the process must end."""


class FencedError(FatalError):
    """Another process has taken over what this one thought it owned."""


class RecordFault(StreamWorkerError):
    """This record can't be processed, and no retry will mend it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class TransientFault(RecordFault):
    """This record could not be processed now; the same attempt may succeed later."""
