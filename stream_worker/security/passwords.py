"""SCRAM passwords that are read again for every connection."""

from __future__ import annotations

from pathlib import Path

from stream_worker.security.files import at_connecting


class ScramPassword(str):
    """A password that is read again for every connection, and stands nowhere in memory meanwhile.

    aiokafka's SCRAM asks the argument for its bytes at the beginning of each authentication, and uses it for nothing
    else. As text this is empty.
    """

    __slots__ = ("_path",)
    _path: Path

    def __new__(cls, path: Path) -> ScramPassword:
        """Of the file at `path`."""
        made = super().__new__(cls)
        made._path = path
        return made

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """The password as it is now. Raises AuthenticationFailedError where its file can't be read."""
        return at_connecting(self._path, "kafka.password_file").encode(encoding, errors)
