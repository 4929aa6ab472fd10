"""The object store as files of one folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stream_worker.errors import Exit, Ours, OutageError, UserError
from stream_worker.store.blobs import BlobStat, Store

_PROBE = ".check"


class DirectoryStore(Store):
    """Blobs as files under `root`, which is made where it is not there yet."""

    def __init__(self, root: Path, *, timeout_s: float = 20.0) -> None:
        self.root = root.absolute()
        super().__init__(f"store folder {self.root}", timeout_s)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.where} can't be made: {error.strerror}", Exit.STORE) from None

    def _check(self) -> None:
        with self._outages():
            _write(self.root / _PROBE, b"")

    def _put(self, key: str, data: bytes, media_type: str) -> None:
        path = self.root / key
        with self._outages():
            if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, data)

    def _get(self, key: str, size: int) -> bytes | None:
        with self._outages():
            try:
                with (self.root / key).open("rb") as file:
                    return file.read(size + 1)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def _size(self, key: str) -> int | None:
        with self._outages():
            path = self.root / key
            return path.stat().st_size if path.is_file() else None

    def _delete(self, key: str) -> None:
        with self._outages(), contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            (self.root / key).unlink()

    def _list(self, prefix: str) -> tuple[BlobStat, ...]:
        found = []
        with self._outages():
            for folder, _, names in os.walk(self.root):
                for path in (Path(folder, name) for name in names):
                    key = path.relative_to(self.root).as_posix()
                    if key.startswith(prefix):
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                            found.append(BlobStat(key, path.stat().st_size))
        return tuple(found)

    def _url(self, key: str) -> str:
        return (self.root / key).as_uri()

    @contextlib.contextmanager
    def _outages(self) -> Iterator[None]:
        if not self.root.is_dir():  # unmounted: nothing is known of any blob
            raise OutageError(f"{self.where} is away", Ours.STORE)
        try:
            yield
        except OSError as error:
            raise OutageError(f"{self.where}: {error.strerror}", Ours.STORE) from error


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever dies in between."""
    # In the same folder: a rename within one file system is atomic. Hidden: no key starts with a dot.
    handle, scratch = tempfile.mkstemp(prefix=".put-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
    for folder in (path.parent, path.parent.parent):  # the second may have got a new folder
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
