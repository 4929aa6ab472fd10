"""What of the private broker needs no broker: versions, ports, settings, and what goes wrong before Java runs."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_worker.errors import Exit, UserError
from stream_worker.local_kafka import LocalKafka, status
from stream_worker.local_kafka.config import installed_version, last_word, server_properties
from stream_worker.local_kafka.ports import free_port, is_free
from stream_worker.maven import java_version

Program = Callable[[str, str], None]


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    """A folder that is the whole PATH, with only a shell in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    return folder


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def java(folder: Path, version: str) -> None:
    program(folder, "java", f"echo 'openjdk version \"{version}\" 2026-01-01' >&2")


def environ(bin_dir: Path, **more: str) -> dict[str, str]:
    """An environment without our own KAFKA_HOME, JAVA_HOME and cache."""
    return {"PATH": str(bin_dir), "HOME": str(bin_dir.parent), "XDG_CACHE_HOME": str(bin_dir.parent / "cache"), **more}


async def refused(tmp_path: Path, variables: dict[str, str]) -> UserError:
    broker = LocalKafka(tmp_path / "data", environ=variables)
    with pytest.raises(UserError) as caught:
        await broker.start()
    assert "\n" not in str(caught.value)
    assert not broker.running
    return caught.value


def names_the_ways(error: UserError) -> bool:
    ways = ("Java 17", "Maven", "KAFKA_HOME", "kafka.bootstrap_servers", "docker compose")
    return error.exit_code == Exit.JAVA and all(way in str(error) for way in ways)


async def test_without_java(tmp_path: Path, bin_dir: Path) -> None:
    error = await refused(tmp_path, environ(bin_dir))
    assert str(error).startswith("Java is not installed")
    assert names_the_ways(error)


@pytest.mark.parametrize(("version", "major"), [("11.0.2", "11"), ("1.8.0_402", "8")])
async def test_with_an_old_java(tmp_path: Path, bin_dir: Path, version: str, major: str) -> None:
    java(bin_dir, version)
    error = await refused(tmp_path, environ(bin_dir))
    assert f"is Java {major}, too old (at least 17)" in str(error)
    assert names_the_ways(error)


async def test_with_a_java_that_does_not_run(tmp_path: Path, bin_dir: Path) -> None:
    program(bin_dir, "java", "exit 1")
    error = await refused(tmp_path, environ(bin_dir))
    assert "does not run" in str(error)
    assert names_the_ways(error)


async def test_java_home_stands_before_the_path(tmp_path: Path, bin_dir: Path) -> None:
    java(bin_dir, "17.0.1")
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    java(home / "bin", "11.0.2")
    error = await refused(tmp_path, environ(bin_dir, JAVA_HOME=str(home)))
    assert str(error).startswith(f"{home}/bin/java is Java 11")


async def test_without_maven(tmp_path: Path, bin_dir: Path) -> None:
    java(bin_dir, "17.0.1")
    error = await refused(tmp_path, environ(bin_dir))
    assert str(error).startswith("Maven is not installed")
    assert names_the_ways(error)


async def test_with_a_maven_that_cannot_fetch(tmp_path: Path, bin_dir: Path) -> None:
    java(bin_dir, "17.0.1")
    program(bin_dir, "mvn", "echo '[ERROR] Could not resolve org.apache.kafka: no network'\nexit 1")
    error = await refused(tmp_path, environ(bin_dir))
    assert "could not fetch" in str(error)
    assert "no network" in str(error)
    assert error.exit_code == Exit.JAVA
    assert not list((tmp_path / "cache").rglob("libs"))


async def test_with_a_cache_that_cannot_be_written(tmp_path: Path, bin_dir: Path) -> None:
    java(bin_dir, "17.0.1")
    program(bin_dir, "mvn", "exit 1")
    (tmp_path / "cache").write_text("in the way")
    error = await refused(tmp_path, environ(bin_dir))
    assert "can't be written" in str(error)


@pytest.mark.parametrize(
    ("jar", "said"), [("other.jar", "no unpacked"), ("kafka_2.13-3.9.1.jar", "Kafka 3.9.1, too old")]
)
async def test_with_a_wrong_kafka_home(tmp_path: Path, bin_dir: Path, jar: str, said: str) -> None:
    java(bin_dir, "17.0.1")
    libs = tmp_path / "kafka" / "libs"
    libs.mkdir(parents=True)
    (libs / jar).touch()
    error = await refused(tmp_path, environ(bin_dir, KAFKA_HOME=str(tmp_path / "kafka")))
    assert said in str(error)
    assert error.exit_code == Exit.JAVA


def test_the_major_version_of_java() -> None:
    assert java_version('openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime') == 17
    assert java_version('java version "1.8.0_402"') == 8
    assert java_version('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "21" 2023-09-19') == 21
    assert java_version("bash: java: not found") is None


def test_the_version_of_an_unpacked_kafka(tmp_path: Path) -> None:
    for name in ("kafka-clients-4.1.0.jar", "kafka_2.13-4.1.0-sources.jar", "kafka_2.13-4.1.0.jar"):
        (tmp_path / name).touch()
    assert installed_version(tmp_path) == (4, 1, 0)
    assert installed_version(tmp_path / "nowhere") is None


def test_the_last_word_of_a_log() -> None:
    log = (
        "2026-01-01 INFO starting\n"
        "2026-01-01 ERROR kafka.Kafka$ Exiting Kafka due to fatal exception\n"
        "java.lang.RuntimeException: No readable meta.properties files found.\n"
        "\tat org.apache.kafka.metadata.properties.MetaPropertiesEnsemble.verify(x.java:480)\n"
    )
    assert last_word(log) == "java.lang.RuntimeException: No readable meta.properties files found."
    thrown = 'Exception in thread "main" org.apache.kafka.ConfigException: Invalid value none for num.io.threads'
    assert last_word(f"{thrown}\n\tat a.b.C(D.java)\n\t... 3 more\n") == thrown
    assert last_word("x\n1 ERROR a b\nmore") == "1 ERROR a b"
    assert last_word("Error occurred during initialization of VM\n\n") == "Error occurred during initialization of VM"
    assert last_word("") == "its log is empty"


def test_settings_of_the_caller_stand_over_ours() -> None:
    lines = server_properties(1, 2, {"node.id": "1", "offsets.topic.num.partitions": "3"}).splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2" in lines
    assert "offsets.topic.num.partitions=3" in lines
    assert len({line.split("=")[0] for line in lines}) == len(lines)


def test_a_free_port_is_free_and_out_of_the_clients_way() -> None:
    port = free_port()
    assert is_free(port)
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert port < max(lowest, 32_000)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid":"x","started":1,"port":1,"daemon":true}'])
def test_a_spoilt_record_is_no_broker(tmp_path: Path, text: str) -> None:
    (tmp_path / "broker.json").write_text(text)
    assert status(tmp_path) is None


def test_a_reused_pid_is_no_broker(tmp_path: Path) -> None:
    (tmp_path / "broker.json").write_text(f'{{"pid":{os.getpid()},"started":1,"port":1,"daemon":true}}')
    assert status(tmp_path) is None
