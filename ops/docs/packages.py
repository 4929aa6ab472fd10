"""What AsyncAPI's own people publish at npm, fetched once: their schema of the specification, and their page.

Two files out of two packages are wanted. So npm fetches just these two (`npm pack`), into the cache where Kafka's jars
are too: no tree of dependencies, and nothing of theirs runs here but the page, in a browser.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stream_worker.maven import cache_root

FETCH_S = 120


class PackageError(Exception):
    """A package can't be had, or is not what it was when it was pinned; one line says why."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package at npm, pinned as npm's own lock files do it."""

    name: str
    version: str
    integrity: str

    def file(self, path: str) -> bytes:
        """A file of the package. Raises PackageError."""
        with tarfile.open(self._archive()) as archive:
            member = archive.extractfile(f"package/{path}")
            if member is None:
                raise PackageError(f"{self.name} {self.version} has no file {path}")
            return member.read()

    def _archive(self) -> Path:
        stem = f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"
        kept = cache_root(os.environ) / "npm" / stem
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="fetch-", dir=kept.parent) as scratch:
                self._fetch(scratch)
                os.replace(Path(scratch, stem), kept)
        digest = hashlib.sha512(kept.read_bytes()).digest()
        if self.integrity != "sha512-" + base64.b64encode(digest).decode():
            raise PackageError(f"{kept} is not the {self.name} {self.version} that is pinned: remove it")
        return kept

    def _fetch(self, folder: str) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise PackageError("npm is not installed (Debian: apt-get install npm)")
        argv = [npm, "pack", "--silent", "--pack-destination", folder, f"{self.name}@{self.version}"]
        try:
            done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=FETCH_S)
        except subprocess.TimeoutExpired:
            raise PackageError(f"npm could not fetch {self.name} within {FETCH_S} s") from None
        if done.returncode != 0:
            raise PackageError(f"npm could not fetch {self.name}: {done.stderr.strip()[:500]}")


SPECIFICATION = Package(
    "@asyncapi/specs",
    "6.11.1",
    "sha512-A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ==",
)
PAGE = Package(
    "@asyncapi/react-component",
    "3.2.1",
    "sha512-k5ZqJd6+oxYaQ2o6F3rGWJ1MTIjXdpsUYB3NKQbVqr4yzrN0Ovj5c7eZx8NGd3wfKPhbOrLREtYl9K2OPfnSsA==",
)
