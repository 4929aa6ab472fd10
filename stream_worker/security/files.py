"""The files that secrets and certificates come from. No message holds anything of what was read."""

from __future__ import annotations

from pathlib import Path

from aiokafka.errors import AuthenticationFailedError

from stream_worker.errors import UserError

LARGEST_BYTES = 64 * 1024
"""Of a secret's file."""


def secret(path: Path, setting: str) -> str:
    """The text of a secret's file, without the newline that editors put behind it. Raises UserError.

    No message holds anything of what was read.
    """
    try:
        with path.expanduser().open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{setting}: {path} can't be read: {error.strerror or type(error).__name__}") from None
    if len(raw) > LARGEST_BYTES:
        raise UserError(f"{setting}: {path} is larger than any secret")
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{setting}: {path} is no text") from None
    if not text.strip():
        raise UserError(f"{setting}: {path} is empty")
    return text


def at_connecting(path: Path, setting: str) -> str:
    """The same while a connection is made: its error is one that aiokafka takes for a connection that failed."""
    try:
        return secret(path, setting)
    except UserError as error:
        raise AuthenticationFailedError(str(error)) from None


def text_of(path: Path, setting: str) -> str:
    """The text of a file of certificates, which may be large. Raises UserError."""
    try:
        text = path.expanduser().read_text("ascii", errors="replace")
    except OSError as error:
        raise UserError(f"{setting}: {path} can't be read: {error.strerror or type(error).__name__}") from None
    if not text.strip():
        raise UserError(f"{setting}: {path} is empty")
    return text
