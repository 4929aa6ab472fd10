"""The folder that a demo writes to: one demo at a time, and nothing that another program put there is touched."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stream_worker.errors import UserError

MARK = ".stream-worker-demo"


@dataclass(frozen=True, slots=True)
class OutFolder:
    """Where each result goes."""

    root: Path

    @property
    def photos(self) -> Path:
        """The photos that the demo renders."""
        return self.root / "photos"

    @property
    def plys(self) -> Path:
        """A PLY file per object."""
        return self.root / "ply"

    @property
    def logs(self) -> Path:
        """A log file per worker."""
        return self.root / "logs"

    @property
    def completed(self) -> Path:
        """The completed events, a line each."""
        return self.root / "completed.jsonl"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.root / "report.html"

    @property
    def data(self) -> Path:
        """Kafka's data and the object store, for as long as the demo runs."""
        return self.root / ".data"


@contextmanager
def taken(root: Path) -> Iterator[OutFolder]:
    """The folder, empty of what an earlier demo left, and ours until the context ends; `data` is gone then.

    Raises UserError where it can't be written, holds what is not a demo's, or another demo is at work in it.
    """
    folder = OutFolder(root.absolute())
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(_mark(root).open("rb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another demo is writing to {root}: wait for it, or name another --out") from None
            for path in (folder.data, folder.plys, folder.logs, folder.completed, folder.report):
                _remove(path)
        except OSError as error:
            raise UserError(f"can't write to {root}: {error.strerror or error}") from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder.data, ignore_errors=True)


def _mark(root: Path) -> Path:
    """The file that says whose folder it is, made where the folder is new or empty."""
    root.mkdir(parents=True, exist_ok=True)
    mark = root / MARK
    if not mark.exists():
        if any(root.iterdir()):
            raise UserError(f"{root} is not empty, and no demo made it: name another folder with --out")
        mark.touch()
    return mark


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
