"""The object store as files of one folder."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from stream_worker.errors import Exit, Ours, OutageError, UserError
from stream_worker.store.blobs import BlobStat, Store

# Hidden names, which no key has.
MARK = ".check"
_SCRATCH = ".put"
_LEFT_S = 3600.0
"""A scratch file this old is no living writer's. (One that is after all writes again: its rename fails.)"""


class DirectoryStore(Store):
    """Blobs as files under `root`, which is made where it is not there yet.

    `root` must be one file system: a file is written in a folder of it, `.put`, and renamed to its place. A mark,
    the file `.check`, tells the store from the empty folder that it is mounted on.
    """

    def __init__(self, root: Path, *, timeout_s: float = 20.0) -> None:
        self.root = root.absolute()
        super().__init__(f"store folder {self.root}", timeout_s)
        try:
            (self.root / _SCRATCH).mkdir(parents=True, exist_ok=True)
            (self.root / MARK).touch()
        except OSError as error:
            raise UserError(f"{self.where} can't be made: {error.strerror}", Exit.STORE) from None

    def _check(self) -> None:
        with self._outages():
            self._sweep()
            self._write(self.root / MARK, b"")

    def _put(self, key: str, data: bytes, media_type: str, anew: bool) -> None:
        path = self.root / key
        with self._outages():
            if not anew and path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
                self._sync(path)  # whoever wrote it may have died, or failed, before its name was durable
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, data)

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

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file so that it is there whole or not at all, whatever dies in between."""
        handle, scratch = tempfile.mkstemp(dir=self.root / _SCRATCH)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong first is what must be told
                os.unlink(scratch)
            raise
        self._sync(path)

    def _sync(self, path: Path) -> None:
        """Make a file's name durable, and those of the folders above it: any of them may be new."""
        for folder in path.parents:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            if folder == self.root:
                return

    def _sweep(self) -> None:
        """Remove what writers that were killed have left half written."""
        with os.scandir(self.root / _SCRATCH) as left:
            for entry in left:
                with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                    if entry.stat().st_mtime < time.time() - _LEFT_S:
                        os.unlink(entry)

    @contextlib.contextmanager
    def _outages(self) -> Iterator[None]:
        """What the file system says against us is an outage, and so is a folder without its mark, before and after.

        An unmounted store is an empty folder: a blob would be missing there, and one that was put there would be
        gone when the store comes back.
        """
        try:
            self._require_mark()
            yield
            self._require_mark()
        except OSError as error:
            raise OutageError(f"{self.where}: {error.strerror}", Ours.STORE) from error

    def _require_mark(self) -> None:
        if not (self.root / MARK).is_file():
            raise OutageError(f"{self.where} is away", Ours.STORE)
