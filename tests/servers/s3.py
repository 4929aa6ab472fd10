"""A real S3 server for tests: S3Proxy (Apache-2.0) on a folder, with signatures checked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from stream_worker.errors import UserError
from stream_worker.lifeline import tied
from stream_worker.local_kafka.ports import HOST, free_port
from stream_worker.maven import fetch_artifacts, find_java

VERSION = "4.1.0"
ARTIFACTS = (
    f"org.gaul:s3proxy:{VERSION}",
    "com.fasterxml.jackson.core:jackson-annotations:2.21",  # Maven would take an older one, which it can't use
)
WAYS = "install Java 17 and Maven: the tests' S3 server needs them"

_LOGBACK = """<configuration><appender name="out" class="ch.qos.logback.core.ConsoleAppender"><encoder>
<pattern>%d %p %c{1} %m%n</pattern></encoder></appender><root level="warn"><appender-ref ref="out"/></root>
</configuration>"""


class S3Server:
    """One server with its data in `folder`. It dies with the thread that started it."""

    access_key = "tester"
    secret_key = "not-a-secret-but-checked"

    def __init__(self, folder: Path, keystore: tuple[Path, str] | None = None) -> None:
        """`keystore`: a PKCS 12 file with its certificate, and the password; then it speaks https too."""
        self._folder = folder.absolute()
        self.port = free_port()
        self.secure_port = free_port(but=self.port)
        self._keystore = keystore
        self._process: subprocess.Popen[bytes] | None = None
        self._program: tuple[str, Path] | None = None

    @property
    def data(self) -> Path:
        """The folder of its buckets: each a folder, with its blobs as files."""
        return self._folder / "data"

    @property
    def endpoint(self) -> str:
        """host:port, plain HTTP."""
        return f"{HOST}:{self.port}"

    def start(self, timeout_s: float = 60.0) -> None:
        """Start (again, on the same port and data) and return when it answers."""
        if self._program is None:  # the first start, outside of any event loop
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                self._program = runner.run(_program())
        java, libraries = self._program
        self.data.mkdir(parents=True, exist_ok=True)
        (self._folder / "logback.xml").write_text(_LOGBACK)
        secure = ""
        if self._keystore is not None:
            path, password = self._keystore
            secure = (
                f"s3proxy.secure-endpoint=https://{HOST}:{self.secure_port}\n"
                f"s3proxy.keystore-path={path}\ns3proxy.keystore-password={password}\n"
            )
        # basedir must be absolute: with a relative one the server's lists are empty.
        (self._folder / "s3proxy.properties").write_text(
            f"s3proxy.endpoint=http://{self.endpoint}\ns3proxy.authorization=aws-v4\n"
            f"s3proxy.identity={self.access_key}\ns3proxy.credential={self.secret_key}\n"
            f"{secure}jclouds.provider=filesystem-nio2\njclouds.filesystem.basedir={self.data}\n"
        )
        flags = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlogback.configurationFile=logback.xml"]
        command = [java, *flags, "-cp", f"{libraries}/*", "org.gaul.s3proxy.Main", "--properties"]
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                tied([*command, "s3proxy.properties"]),
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                said = (self._folder / "server.log").read_text(errors="replace")
                raise UserError(f"the S3 server did not start: {said[-1000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://{self.endpoint}/", timeout=5).close()
        except urllib.error.HTTPError:
            return True  # it wants a signature
        except OSError:
            return False
        return True


async def _program() -> tuple[str, Path]:
    java = await find_java(os.environ, WAYS)
    return java, await fetch_artifacts(f"s3proxy-{VERSION}", ARTIFACTS, environ=os.environ, progress=print, ways=WAYS)
