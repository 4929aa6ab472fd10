"""The broker's process: formatted, started, asked whether it answers, stopped."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from stream_worker.errors import Exit, UserError
from stream_worker.lifeline import gone, tied
from stream_worker.local_kafka.config import (
    ARTIFACTS,
    JVM_FLAGS,
    KAFKA_MINIMUM,
    KAFKA_VERSION,
    LOG4J,
    WAYS,
    installed_version,
    last_word,
    server_properties,
)
from stream_worker.local_kafka.ports import HOST, free_port, is_free
from stream_worker.local_kafka.state import end, lock, remember
from stream_worker.maven import fetch_artifacts, find_java


def _tell(message: str) -> None:
    structlog.get_logger("local_kafka").info(message)


def new_cluster_id() -> str:
    """What Kafka takes for a cluster's id: 16 random bytes."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


class LocalKafka:
    """One broker of a data folder.

    `port`: of the broker; None: a free one, kept for every later start of this object.
    `config`: Kafka's own settings, over ours. `cluster_id`: of the cluster that this node is formatted for; None:
    one of its own. `format_arguments`: further ones of `kafka-storage format`. `progress` hears what takes long (the
    first fetch).
    """

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        heap_mb: int = 512,
        config: Mapping[str, str] | None = None,
        cluster_id: str | None = None,
        format_arguments: Sequence[str] = (),
        environ: Mapping[str, str] = os.environ,
        progress: Callable[[str], None] = _tell,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._wanted_port = port
        self._port: int | None = port
        self._heap_mb = heap_mb
        self._config = dict(config or {})
        self._cluster_id = cluster_id or new_cluster_id()
        self._format_arguments = tuple(format_arguments)
        self._environ = environ
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """What a client connects to; known after the first start."""
        if self._port is None:
            raise RuntimeError("the broker was never started")
        return f"{HOST}:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the broker's process lives."""
        return self._process is not None and self._process.poll() is None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, timeout_s: float = 120.0, *, daemon: bool = False) -> None:
        """Start the broker and return when it answers. Fetching Kafka, once, has a time limit of its own.

        Raises UserError: Java, Maven or Kafka missing or too old (Exit.JAVA), the port in use (Exit.PORT), the
        folder in use (Exit.FAILED), or a broker that does not come up, with its last word (Exit.BROKER).
        """
        if self.running:
            raise RuntimeError("the broker runs already")
        java = await find_java(self._environ, WAYS)
        classpath = f"{await self._libraries()}/*"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        held = lock(self.data_dir)
        try:
            if not (self.data_dir / "log" / "meta.properties").is_file():
                await self._format(java, classpath, deadline - loop.time())
            for attempt in range(3):
                self._launch(java, classpath, held, daemon)
                try:
                    await self._ready(deadline)
                    break
                except UserError as error:
                    # Somebody took a free port between our look and the broker's bind.
                    if error.exit_code != Exit.PORT or self._wanted_port is not None or attempt == 2:
                        raise
                    self._port = None
        finally:
            os.close(held)  # the broker holds its own copy

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Let the broker flush and go; kill it at the deadline. Its data stays."""
        if self._process is not None and self._process.poll() is None:
            await end(self._process.pid, timeout_s)
            self._process.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash or the kernel would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def wait(self) -> int:
        """Wait for the broker's end, whoever causes it; its exit status."""
        if self._process is None:
            raise RuntimeError("the broker was never started")
        if self._process.poll() is None:
            pidfd = os.pidfd_open(self._process.pid)
            try:
                await gone(pidfd, None)
            finally:
                os.close(pidfd)
        return self._process.wait()

    async def _libraries(self) -> Path:
        home = self._environ.get("KAFKA_HOME")
        if not home:
            return await fetch_artifacts(
                f"kafka-{KAFKA_VERSION}", ARTIFACTS, environ=self._environ, progress=self._progress, ways=WAYS
            )
        libs = Path(home).absolute() / "libs"
        version = installed_version(libs)
        if version is None:
            raise UserError(f"KAFKA_HOME={home} is no unpacked Apache Kafka: it has no libs/kafka_*.jar", Exit.JAVA)
        if version < KAFKA_MINIMUM:
            raise UserError(
                f"KAFKA_HOME={home} is Kafka {'.'.join(map(str, version))}, too old (at least 4.0)", Exit.JAVA
            )
        return libs

    def _command(self, java: str, classpath: str, main: str, *arguments: str) -> list[str]:
        log4j = "-Dlog4j2.configurationFile=log4j2.properties"
        return [java, f"-Xmx{self._heap_mb}m", *JVM_FLAGS, log4j, "-cp", classpath, main, *arguments]

    def _write_config(self, name: str, port: int, **over: str) -> None:
        over = {key.replace("_", "."): value for key, value in over.items()}
        text = server_properties(port, free_port(but=port), self._config | over)
        (self.data_dir / name).write_text(text, encoding="utf-8")
        (self.data_dir / "log4j2.properties").write_text(LOG4J, encoding="utf-8")

    async def _format(self, java: str, classpath: str, timeout_s: float) -> None:
        """Make Kafka's data folder, whole or not at all."""
        fresh = self.data_dir / "log.new"
        shutil.rmtree(fresh, ignore_errors=True)  # of a start that was killed here
        self._write_config("format.properties", 9092, log_dirs=fresh.name)  # the ports are not kept
        command = self._command(java, classpath, "kafka.tools.StorageTool", "format")
        cluster = f"--cluster-id={self._cluster_id}"  # an id may begin with "-"
        arguments = [cluster, "--config=format.properties", *self._format_arguments]
        process = await asyncio.create_subprocess_exec(
            *tied([*command, *arguments]),
            cwd=self.data_dir,
            env=dict(self._environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(timeout_s):
                said, _ = await process.communicate()
        except TimeoutError:
            raise UserError(f"Kafka's storage was not formatted within {timeout_s:.0f} s", Exit.BROKER) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise UserError(f"Kafka's storage can't be formatted: {last_word(said.decode())}", Exit.BROKER)
        fresh.rename(self.data_dir / "log")

    def _launch(self, java: str, classpath: str, held: int, daemon: bool) -> None:
        if self._port is None:
            self._port = free_port()
        elif not is_free(self._port):
            raise UserError(f"port {self._port} is in use: name a free one (--port or local.port), or none", Exit.PORT)
        self._write_config("server.properties", self._port)
        for name in ("kafka.log", "jvm.log"):  # the last run's may say why it ended
            with contextlib.suppress(FileNotFoundError):
                (self.data_dir / name).rename(self.data_dir / f"{name}.previous")
        command = self._command(java, classpath, "kafka.Kafka", "server.properties")
        with (self.data_dir / "jvm.log").open("wb") as output:
            self._process = subprocess.Popen(
                command if daemon else tied(command),
                cwd=self.data_dir,
                env=dict(self._environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[held],
                start_new_session=True,  # Ctrl-C is for the foreground's processes, which then stop us in order
            )
        remember(self.data_dir, self._process.pid, self._port, daemon=daemon)

    async def _ready(self, deadline: float) -> None:
        """Return when the broker answers a metadata request; otherwise leave no process behind."""
        assert self._process is not None
        loop = asyncio.get_running_loop()
        try:
            while not await _answers(self.bootstrap_servers):
                if self._process.poll() is not None:
                    word = last_word(self._logs())
                    if "Address already in use" in word or "failed to bind" in word:
                        raise UserError(f"port {self._port} is in use, name a free one or none: {word}", Exit.PORT)
                    raise UserError(f"Kafka did not start: {word} (see {self.data_dir}/kafka.log)", Exit.BROKER)
                if loop.time() > deadline:
                    raise UserError(
                        f"Kafka was not ready in time: {last_word(self._logs())} (see {self.data_dir}/kafka.log)",
                        Exit.BROKER,
                    )
                await asyncio.sleep(0.05)
        except BaseException:
            self.kill()
            raise

    def _logs(self) -> str:
        text = ""
        for name in ("jvm.log", "kafka.log"):
            with contextlib.suppress(OSError):
                text += (self.data_dir / name).read_text(encoding="utf-8", errors="replace")
        return text


async def _answers(bootstrap_servers: str) -> bool:
    """Whether a broker answers a metadata request now."""
    host, port = bootstrap_servers.split(":")
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(host, int(port))  # quiet; aiokafka logs what fails
            writer.close()
            client = AIOKafkaClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=4000)
            try:
                await client.bootstrap()
            finally:
                await client.close()
    except (OSError, KafkaError, TimeoutError):
        return False
    return True
