"""This machine: free disk, shared memory, limits, and what is installed."""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from stream_worker import inference
from stream_worker.detector import LEAST_WINDOW
from stream_worker.doctor.check import Finding, Part, failed, ok, warning
from stream_worker.models.scratch import SHARED_MEMORY
from stream_worker.reconstructor import Reconstructor
from stream_worker.settings import Settings
from stream_worker.store import folder_of
from stream_worker.store.threads import Threads

MB = 2**20
FULL_MB, LOW_MB = 256, 5 * 1024
"""A private broker stops at its first segment, 100 MB or so, that does not fit."""
LOW_SHARE = 0.05
FEW_FILES, SOME_FILES = 256, 1024
"""A worker has some 30 open, and a connection for every photo that it fetches and every broker."""
PIXEL_BYTES = 3
KEPT = 2
"""Photos that a reconstructor keeps beside those in hand (`images.shared`)."""
TRIED = ("0.14",)
"""Releases of aiokafka: what goes beyond its documented interface was read and tried in these."""


async def disk(settings: Settings, threads: Threads) -> list[Finding]:
    """Free space of the data folder, and of the store's where that is another file system."""
    folders = [settings.local.data_dir, *filter(None, [folder_of(settings)])]
    return await threads.run(_disks, folders)


def _disks(folders: Collection[Path]) -> list[Finding]:
    found: dict[int, Finding] = {}
    for folder in folders:
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        if (device := there.stat().st_dev) not in found:
            now = os.statvfs(there)
            # `f_files` of 0: a file system without a fixed number of files.
            files = now.f_favail if now.f_files else None
            found[device] = space(folder, now.f_bavail * now.f_frsize, now.f_blocks * now.f_frsize, files)
    return list(found.values())


def space(folder: Path, free: int, size: int, files: int | None) -> Finding:
    """Bytes that are free for us, of how many; `files`: how many more there may be."""
    seen = f"{free // MB} of {size // MB} MB free at {folder}"
    do = "make room, or name another place: local.data_dir, store.url"
    if files == 0:
        return failed("disk", f"no file more can be made at {folder} (inodes)", do)
    if free < FULL_MB * MB:
        return failed("disk", seen, do)
    if free < LOW_MB * MB or free < LOW_SHARE * size:
        return warning("disk", seen, do)
    return ok("disk", seen)


async def scratch(settings: Settings, parts: Collection[Part], threads: Threads) -> list[Finding]:
    """Shared memory, where decoded photos lie, for those that are in flight."""
    photos = 0
    if Part.DETECTOR in parts:
        batch = inference.batch(settings.detector)
        photos += LEAST_WINDOW if batch == 1 else 4 * batch
    if Part.RECONSTRUCTOR in parts:
        photos += Reconstructor.window + KEPT
    try:
        now = await threads.run(os.statvfs, SHARED_MEMORY)
    except OSError as error:
        do = "mount a tmpfs there: photos go by the temporary folder's disk instead"
        return [warning("scratch", f"{SHARED_MEMORY}: {error.strerror}", do)]
    return [room(now.f_bavail * now.f_frsize, photos, PIXEL_BYTES * settings.images.max_pixels)]


def room(free: int, photos: int, largest: int) -> Finding:
    """Whether so many photos of the largest size (bytes) fit into what is free of shared memory."""
    seen = f"{free // MB} MB free in {SHARED_MEMORY}; {photos} photos in flight are {photos * largest // MB} MB at most"
    if free >= photos * largest:
        return ok("scratch", seen)
    do = "more of it (docker: --shm-size; Kubernetes: emptyDir of medium Memory), or a smaller images.max_pixels"
    return warning("scratch", f"{seen}: what does not fit goes by the temporary folder, slower", do)


async def limits() -> list[Finding]:
    """What the kernel lets a process have."""
    return [open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]


def open_files(soft: int) -> Finding:
    """`ulimit -n`; -1 is no limit."""
    seen = "open files: " + ("no limit" if soft < 0 else f"{soft} (ulimit -n)")
    do = f"ulimit -n {SOME_FILES}, or LimitNOFILE= in the unit"
    if 0 <= soft < FEW_FILES:
        return failed("limits", seen, do)
    return warning("limits", seen, do) if 0 <= soft < SOME_FILES else ok("limits", seen)


async def versions() -> list[Finding]:
    """What is installed here. The models' own packages: `interpreters`."""
    installed = {name: metadata.version(name) for name in ("stream-worker", "aiokafka", "minio")}
    seen = ", ".join([f"Python {platform.python_version()}", *(f"{name} {one}" for name, one in installed.items())])
    if not installed["aiokafka"].startswith(TRIED):
        do = "install the one that requirements.lock names"
        return [warning("versions", f"{seen}: this aiokafka was not tried", do)]
    return [ok("versions", seen)]
