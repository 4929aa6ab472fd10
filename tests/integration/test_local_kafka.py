"""The private broker: started, stopped, killed, found again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream_worker.errors import Exit, UserError
from stream_worker.lifeline import gone
from stream_worker.local_kafka import KAFKA_VERSION, LocalKafka, status, stop_daemon
from stream_worker.local_kafka.ports import free_port
from stream_worker.maven import cache_root, fetch_artifacts

LIFE = 30  # seconds that a process may take to end


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder, with an odd name, whose broker ends with the test, however that was started."""
    data = tmp_path / "data, of ours"
    yield data
    if left := status(data):
        os.kill(left.pid, signal.SIGKILL)


@pytest.fixture
async def broker(folder: Path) -> AsyncIterator[LocalKafka]:
    async with LocalKafka(folder) as started:
        yield started


async def write(bootstrap_servers: str, topic: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    if topic not in await admin.list_topics():
        await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id=f"{topic}-writer")
    async with asyncio.timeout(60), producer, producer.transaction():
        await (await producer.send(topic, value))


async def read(bootstrap_servers: str, topic: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap_servers, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    async with asyncio.timeout(60), consumer:
        return [(await consumer.getone()).value for _ in range(count)]


async def ended(pid: int) -> bool:
    """Whether a process is gone, or goes soon."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return await gone(pidfd, LIFE)
    finally:
        os.close(pidfd)


async def test_the_sessions_broker_does_transactions(kafka: str, prefix: str) -> None:
    await write(kafka, f"{prefix}a", b"committed")
    assert await read(kafka, f"{prefix}a", 1) == [b"committed"]


async def test_a_stop_and_a_start_keep_the_data_and_the_address(broker: LocalKafka) -> None:
    address = broker.bootstrap_servers
    await write(address, "a", b"before")
    await broker.stop()
    assert not broker.running
    assert status(broker.data_dir) is None
    await broker.start()
    assert broker.bootstrap_servers == address
    await write(address, "a", b"after")
    assert await read(address, "a", 2) == [b"before", b"after"]


async def test_a_killed_broker_comes_back_with_its_data(broker: LocalKafka) -> None:
    await write(broker.bootstrap_servers, "a", b"before")
    broker.kill()
    assert await broker.wait() == -signal.SIGKILL
    await broker.start()
    await write(broker.bootstrap_servers, "a", b"after")
    assert await read(broker.bootstrap_servers, "a", 2) == [b"before", b"after"]


async def test_a_folder_has_one_broker(broker: LocalKafka) -> None:
    other = LocalKafka(broker.data_dir)
    with pytest.raises(UserError, match="already runs") as caught:
        await other.start()
    assert caught.value.exit_code == Exit.FAILED
    assert broker.bootstrap_servers in str(caught.value)
    assert broker.running
    await write(broker.bootstrap_servers, "a", b"still here")


async def test_a_port_in_use_is_one_clear_line(folder: Path) -> None:
    port = free_port()
    broker = LocalKafka(folder, port)
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(UserError, match=f"port {port} is in use") as caught:
            await broker.start()
        assert caught.value.exit_code == Exit.PORT
    await broker.start()  # nothing is left locked
    assert broker.bootstrap_servers == f"127.0.0.1:{port}"
    await broker.stop()


async def test_a_broker_that_fails_says_why(folder: Path) -> None:
    broker = LocalKafka(folder, config={"num.io.threads": "none"})
    with pytest.raises(UserError, match=r"num\.io\.threads") as caught:
        await broker.start()
    assert caught.value.exit_code == Exit.BROKER
    assert "\n" not in str(caught.value)
    assert status(folder) is None


async def test_spoilt_data_is_said_and_not_overwritten(broker: LocalKafka) -> None:
    await broker.stop()
    spoilt = broker.data_dir / "log" / "meta.properties"
    spoilt.write_text("version=9\n")
    with pytest.raises(UserError, match="did not start"):
        await broker.start()
    assert spoilt.read_text() == "version=9\n"


async def test_a_format_that_was_cut_short_is_done_again(folder: Path) -> None:
    (folder / "log.new" / "__cluster_metadata-0").mkdir(parents=True)
    (folder / "log.new" / "meta.properties").write_text("half")
    async with LocalKafka(folder) as broker:
        await write(broker.bootstrap_servers, "a", b"x")
    assert not (folder / "log.new").exists()


async def test_kafka_home_is_used_and_nothing_fetched(folder: Path, tmp_path: Path, kafka: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "libs").symlink_to(cache_root(os.environ) / f"kafka-{KAFKA_VERSION}" / "libs")
    variables = {**os.environ, "KAFKA_HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    broker = LocalKafka(folder, environ=variables)
    async with broker:
        await write(broker.bootstrap_servers, "a", b"x")
    assert not (tmp_path / "cache").exists()


async def test_a_daemon_outlives_its_starter_and_is_found_by_its_folder(folder: Path) -> None:
    await run_python(
        "import asyncio, pathlib, sys\n"
        "from stream_worker.local_kafka import LocalKafka\n"
        "asyncio.run(LocalKafka(pathlib.Path(sys.argv[1])).start(daemon=True))\n",
        folder,
    )
    there = status(folder)
    assert there is not None
    assert there.daemon
    await write(there.bootstrap_servers, "a", b"x")
    with pytest.raises(UserError, match=f"pid {there.pid}"):
        await LocalKafka(folder).start()
    assert await stop_daemon(folder)
    assert status(folder) is None
    assert await ended(there.pid)
    assert not await stop_daemon(folder)


async def test_the_broker_dies_with_a_parent_that_is_killed(folder: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, pathlib, sys\n"
        "from stream_worker.local_kafka import LocalKafka\n"
        "async def main():\n"
        "    await LocalKafka(pathlib.Path(sys.argv[1])).start()\n"
        "    print('started', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n",
        str(folder),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert parent.stdout is not None
        assert await asyncio.wait_for(parent.stdout.readline(), 60) == b"started\n"
        there = status(folder)
        assert there is not None
    finally:
        parent.kill()
        await parent.wait()
    assert await ended(there.pid)
    async with LocalKafka(folder):  # and its lock is gone with it
        pass


async def test_two_processes_fetch_once(tmp_path: Path) -> None:
    said: list[str] = []
    folders = await asyncio.gather(*(fetch(tmp_path, said) for _ in range(2)))
    assert folders[0] == folders[1]
    assert [path.name for path in folders[0].iterdir()] == ["jopt-simple-5.0.4.jar"]
    assert sum("once" in line for line in said) == 1
    assert {path.name for path in folders[0].parent.iterdir()} == {"libs", "lock"}


async def test_a_fetch_that_was_killed_leaves_no_half(tmp_path: Path) -> None:
    half = tmp_path / "stream-worker" / "tool" / "fetch-killed" / "libs"
    half.mkdir(parents=True)
    (half / "half.jar").touch()
    libs = await fetch(tmp_path, [])
    assert [path.name for path in libs.iterdir()] == ["jopt-simple-5.0.4.jar"]
    assert not half.exists()


async def test_an_artifact_that_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no-such-thing") as caught:
        await fetch(tmp_path, [], "net.sf.jopt-simple:no-such-thing:1")
    assert caught.value.exit_code == Exit.JAVA
    assert "\n" not in str(caught.value)


async def fetch(cache: Path, said: list[str], artifact: str = "net.sf.jopt-simple:jopt-simple:5.0.4") -> Path:
    variables = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    return await fetch_artifacts("tool", [artifact], environ=variables, progress=said.append, ways="install it")


async def run_python(script: str, *arguments: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *map(str, arguments), stdout=subprocess.DEVNULL
    )
    assert await asyncio.wait_for(process.wait(), 60) == 0
