"""Java programs without an installer: finds Java, and fetches jars with Maven into a cache, once."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from stream_worker.errors import Exit, UserError
from stream_worker.lifeline import tied

JAVA_MINIMUM = 17  # Kafka 4.x brokers refuse less
_QUIET = ("-q", "-B", "-U", "--strict-checksums")  # -U: forget that something could not be had yesterday
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def cache_root(environ: Mapping[str, str]) -> Path:
    """Where fetched artefacts are kept: $XDG_CACHE_HOME/stream-worker, or ~/.cache/stream-worker."""
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stream-worker"


async def find_java(environ: Mapping[str, str], ways: str) -> str:
    """The path of a Java that is new enough: from JAVA_HOME, else from PATH.

    Raises UserError; `ways` ends its line and says what else the user can do.
    """
    home = environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java", path=environ.get("PATH", ""))
    if java is None:
        raise UserError(f"Java is not installed: {ways}", Exit.JAVA)
    code, said = await _run([java, "-version"], environ, timeout_s=30)
    version = java_version(said)
    if code != 0 or version is None:
        raise UserError(f"{java} does not run: {ways}", Exit.JAVA)
    if version < JAVA_MINIMUM:
        raise UserError(f"{java} is Java {version}, too old (at least {JAVA_MINIMUM}): {ways}", Exit.JAVA)
    return java


def java_version(said: str) -> int | None:
    """The major version in what `java -version` says; 8 for the old style "1.8.0_402"."""
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None


async def fetch_artifacts(
    name: str,
    artifacts: Sequence[str],
    *,
    environ: Mapping[str, str],
    progress: Callable[[str], None],
    ways: str,
    timeout_s: float = 900.0,
) -> Path:
    """The folder with the jars of `artifacts` ("group:artifact:version") and of all that they need.

    Fetched once, into `<cache>/<name>/libs`, and whole or not at all: two processes at once, or one that dies
    half-way, leave nothing wrong behind. Raises UserError when Maven is missing or can't fetch.
    """
    folder = cache_root(environ) / name
    libs = folder / "libs"
    if libs.is_dir():
        return libs
    maven = shutil.which("mvn", path=environ.get("PATH", ""))
    if maven is None:
        raise UserError(f"Maven is not installed: {ways}", Exit.JAVA)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the cache {folder} can't be written: {error.strerror}", Exit.JAVA) from None
    async with _locked(folder / "lock", timeout_s):
        if libs.is_dir():  # another process was faster
            return libs
        for left in folder.glob("fetch-*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        progress(f"fetching {name} with Maven into {folder} (once)")
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as scratch:
            pom = Path(scratch, "pom.xml")
            pom.write_text(_pom(artifacts), encoding="utf-8")
            fresh = Path(scratch, "libs")
            code, said = await _run(
                [maven, *_QUIET, "-f", str(pom), _COPY, f"-DoutputDirectory={fresh}", "-DincludeScope=runtime"],
                environ,
                timeout_s,
            )
            if code != 0 or not any(fresh.glob("*.jar")):
                raise UserError(f"Maven could not fetch {name}: {_complaint(said)}", Exit.JAVA)
            fresh.rename(libs)
        progress(f"fetched {name}: {sum(1 for _ in libs.iterdir())} files")
    return libs


def _pom(artifacts: Sequence[str]) -> str:
    """A Maven project that is nothing but its dependencies."""

    def coordinates(text: str) -> str:
        parts = zip(("groupId", "artifactId", "version"), text.split(":"), strict=False)
        return "".join(f"<{tag}>{escape(value)}</{tag}>" for tag, value in parts)

    wanted = "\n".join(f"<dependency>{coordinates(each)}</dependency>" for each in artifacts)
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>\n'
        "<groupId>stream-worker</groupId><artifactId>fetch</artifactId><version>1</version>"
        f"<packaging>pom</packaging>\n<dependencies>\n{wanted}\n</dependencies></project>\n"
    )


def _complaint(said: str) -> str:
    """The one line of Maven's output that says what is wrong."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)  # colours, also where none were asked for
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    errors = [line.removeprefix("[ERROR]").strip() for line in lines if line.startswith("[ERROR]")]
    return next(filter(None, errors), lines[-1] if lines else "it said nothing")[:500]


async def _run(argv: Sequence[str], environ: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    """Run a program to its end; its exit status, and what it wrote. -1 when it was killed at its deadline."""
    process = await asyncio.create_subprocess_exec(
        *tied(argv),
        env=dict(environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await process.communicate()
        return process.returncode or 0, said.decode(errors="replace")
    except TimeoutError:
        return -1, f"no answer within {timeout_s:.0f} s"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def _locked(path: Path, timeout_s: float) -> AsyncIterator[None]:
    """Hold a lock file; another process may be fetching the same for minutes."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not _try_lock(handle):
            if asyncio.get_running_loop().time() > deadline:
                raise UserError(f"another process has held {path} for {timeout_s:.0f} s", Exit.JAVA)
            await asyncio.sleep(0.2)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
