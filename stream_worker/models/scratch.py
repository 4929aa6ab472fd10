"""Private folders for what processes leave behind: the next one to start sweeps those whose owner is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

SHARED_MEMORY = "/dev/shm"  # noqa: S108  (a private folder is made in it)

_LOCK = ".owner"


class ScratchFolder:
    """A folder that only we can read, and that is removed when we end, however we end.

    Its owner holds a lock on a file in it, which the kernel drops with the process. Whoever makes a folder
    of the same kind beside it removes those that nobody holds.

    Args:
        kind: the first part of the folder's name.
        parent: where to make it; the system's temporary folder by default.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, kind: str, parent: str | None = None) -> None:
        parent = parent or tempfile.gettempdir()
        prefix = f"stream-worker-{kind}-"
        _sweep(Path(parent), prefix)
        while True:
            self.path = tempfile.mkdtemp(prefix=prefix, dir=parent)
            lock = _hold(Path(self.path) / _LOCK, create=True)
            if lock is not None:
                self._lock = lock
                return

    def file(self, name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.path, name)

    def remove(self) -> None:
        """Remove it with all that is in it. Harmless when it is gone already."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)
        self._lock = -1


def _sweep(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        try:
            ours = not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
        except OSError:
            continue
        lock = _hold(folder / _LOCK, create=False) if ours else None
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _hold(path: Path, *, create: bool) -> int | None:
    """A descriptor that holds the lock; None if another has it, or took the file away in between."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0), 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == os.stat(path).st_ino:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
