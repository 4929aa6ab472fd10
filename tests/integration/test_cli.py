"""The command line as a person uses it: real processes, a real broker; mistakes are one line and an exit code."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream_worker.errors import Exit
from tests.command import COMMAND, environ, on, require_mistake, stream_worker
from tests.photo_server import serving
from tests.stubs import photo


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "says"),
    [
        (["config"], {"DETECTOR__CONFIDENCE": "7"}, Exit.USAGE, "detector.confidence"),
        (["config"], {"DETECTOR__CONFIDENT": "7"}, Exit.USAGE, "STREAM_WORKER_DETECTOR__CONFIDENT"),
        (["-c", "nowhere.toml", "config"], {}, Exit.USAGE, "nowhere.toml"),
        (["watch"], {}, Exit.BROKER, "stream-worker up"),
        (["publish", "https://x.test/a.jpg"], {}, Exit.BROKER, "stream-worker up"),
        (["publish"], {}, Exit.USAGE, "nothing to publish"),
        (["publish", "-f", "nowhere.jsonl"], {}, Exit.USAGE, "nowhere.jsonl"),
        (["publish", "--id", "a", "u", "v"], {}, Exit.USAGE, "--id"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], code: Exit, says: str
) -> None:
    require_mistake(stream_worker(tmp_path, *arguments, **settings), code, says)


@pytest.mark.parametrize(
    "arguments", [["topics", "check"], ["publish", "u"], ["watch"], ["status"], ["detect"], ["aggregate"], ["up"]]
)
def test_an_unreachable_broker_is_one_line(tmp_path: Path, arguments: list[str]) -> None:
    port = str(free_port())
    done = stream_worker(tmp_path, *arguments, KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")
    assert done.returncode == Exit.BROKER, done.stderr
    assert "Traceback" not in done.stderr
    assert f"127.0.0.1:{port}" in done.stderr


def test_java_missing_is_one_line_that_names_the_ways(tmp_path: Path) -> None:
    settings = environ(tmp_path, LOG__FORMAT="console")
    done = subprocess.run(
        [*COMMAND, "kafka", "start"],
        env={**settings, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == Exit.JAVA, done.stderr
    assert "Traceback" not in done.stderr
    assert "docker compose" in done.stderr
    assert "KAFKA_HOME" in done.stderr


def test_a_port_in_use_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        require_mistake(stream_worker(tmp_path, "kafka", "start", "--port", port), Exit.PORT, "name a free one")


def test_topics_are_created_checked_and_missed(kafka: str, prefix: str, tmp_path: Path) -> None:
    where = on(kafka, prefix)
    done = stream_worker(tmp_path, "topics", "check", **where)
    assert done.returncode == Exit.TOPICS
    assert f"{prefix}images is missing" in done.stderr
    assert stream_worker(tmp_path, "publish", "u", **where).returncode == Exit.TOPICS
    assert stream_worker(tmp_path, "topics", "create", **where).returncode == Exit.OK
    assert stream_worker(tmp_path, "topics", "create", **where).stdout.strip() == "all topics are there"
    assert stream_worker(tmp_path, "topics", "check", **where).returncode == Exit.OK
    few = stream_worker(tmp_path, "topics", "check", **{**where, "KAFKA__PARTITIONS": "4"})
    assert few.returncode == Exit.TOPICS
    assert "has 3 partitions, too few" in few.stderr


def test_missing_weights_are_one_clear_line_and_the_worker_ends(kafka: str, prefix: str, tmp_path: Path) -> None:
    where = on(kafka, prefix)
    stream_worker(tmp_path, "topics", "create", **where)
    done = stream_worker(tmp_path, "detect", **where, DETECTOR__WEIGHTS="/nowhere/yoloe.pt")
    assert done.returncode == Exit.WEIGHTS, done.stderr
    assert "/nowhere/yoloe.pt" in done.stderr
    assert "Traceback" not in done.stderr


def test_up_says_which_worker_can_not_start(kafka: str, prefix: str, tmp_path: Path) -> None:
    where = on(kafka, prefix)
    done = stream_worker(tmp_path, "up", **where, DETECTOR__WEIGHTS="/nowhere/yoloe.pt", LOG__FORMAT="console")
    assert done.returncode == Exit.WEIGHTS, done.stderr
    assert "detector-0: " in done.stderr.splitlines()[-1]
    assert "/nowhere/yoloe.pt" in done.stderr.splitlines()[-1]


@contextmanager
def up(folder: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, "up"], env=environ(folder, **settings), stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
    )
    try:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if '"event":"ready","logger":"up"' in line or ('"ready"' in line and '"up"' in line):
                break
        else:
            pytest.fail("".join(seen))
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(240)
def test_up_publish_watch_and_sigterm_on_the_local_default(tmp_path: Path) -> None:
    """Three commands without a flag: a private Kafka, a photo in, its outcome out, and a clean end."""
    with serving(lambda path: (200, "image/png", photo(1, 2))) as base:
        settings = {
            "IMAGES__ALLOW_NETWORKS": json.dumps([f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
            "DETECTOR__MODEL": "tests.stubs:Counted",
        }
        with up(tmp_path, **settings) as process:
            second = stream_worker(tmp_path, "up", **settings)
            assert (second.returncode, "runs already" in second.stderr) == (Exit.FAILED, True), second.stderr
            sent = stream_worker(tmp_path, "publish", f"{base}/a.png", "--id", "room-1", **settings)
            assert sent.returncode == Exit.OK, sent.stderr
            assert sent.stdout.startswith("room-1  run=live")
            seen = stream_worker(tmp_path, "watch", "--image", "room-1", "--format", "json", **settings)
            assert seen.returncode == Exit.OK, seen.stderr
            event = json.loads(seen.stdout)
            assert (event["image_id"], event["status"], len(event["objects"])) == ("room-1", "complete", 2)
            status = stream_worker(tmp_path, "status", **settings)
            assert status.returncode == Exit.OK, status.stderr
            rows = [
                [cell.strip() for cell in line.split("│")[1:-1]] for line in status.stdout.splitlines() if "│" in line
            ]
            # Everything is done: the markers of transactions are no lag.
            assert [(row[0], row[2], row[3]) for row in rows] == [
                ("detector", "1", "0"),
                ("reconstructor", "1", "0"),
                ("aggregator", "1", "0"),
                ("aggregator", "1", "0"),
            ]
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            rest = process.stderr.read()
            assert process.wait(60) == Exit.OK, rest
        assert stream_worker(tmp_path, "kafka", "status").returncode == Exit.FAILED
