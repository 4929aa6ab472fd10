"""`stream-worker doctor` on a real Kafka, a real S3 server, real folders: what is well, and each thing that is not."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from minio import Minio

from stream_worker import topics
from stream_worker.doctor import child, reach, rights
from stream_worker.doctor.check import Finding, Part, State
from stream_worker.errors import Exit
from stream_worker.inference import NVIDIA
from stream_worker.security.acl import Role
from stream_worker.settings import Kafka, Settings
from tests.command import on, stream_worker
from tests.conftest import run
from tests.faults.mounts import tmpfs
from tests.servers.s3 import S3Server
from tests.servers.secured_kafka import SecuredKafka

CANARY = "canary-of-a-secret-key"
PREFIX = "doctor-"

Found = dict[str, list[dict[str, Any]]]


def doctor(folder: Path, *arguments: str, **settings: str) -> tuple[int, Found]:
    """The exit code, and the findings by check; nothing but them is printed, and no secret among them."""
    done = stream_worker(folder, "doctor", "--json", *arguments, timeout_s=300, **settings)
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stdout + done.stderr
    report = json.loads(done.stdout)
    found: Found = {}
    for finding in report["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    assert report["ok"] == (done.returncode == Exit.OK)
    assert all(finding["do"] for finding in report["findings"] if finding["state"] in ("failed", "warning"))
    return done.returncode, found


def states(found: Found, check: str) -> set[str]:
    return {finding["state"] for finding in found[check]}


def only(found: Found, check: str) -> dict[str, Any]:
    (finding,) = found[check]
    return finding


@pytest.fixture
def nowhere() -> Iterator[dict[str, str]]:
    """Settings whose broker refuses connections: nobody listens at a port that is ours."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield {"KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{taken.getsockname()[1]}"}


def in_bucket(s3: S3Server, bucket: str, secret: str | None = None) -> dict[str, str]:
    return {
        "STORE__URL": f"s3://{bucket}/some/prefix",
        "STORE__ENDPOINT": s3.endpoint,
        "STORE__SECURE": "false",
        "STORE__ACCESS_KEY": s3.access_key,
        "STORE__SECRET_KEY": secret or s3.secret_key,
    }


async def ends(kafka: str, prefix: str) -> dict[str, int]:
    """Records and groups that there are."""
    consumer, admin = AIOKafkaConsumer(bootstrap_servers=kafka), AIOKafkaAdminClient(bootstrap_servers=kafka)
    await consumer.start()
    await admin.start()
    try:
        partitions = [TopicPartition(prefix + one.name, number) for one in topics.TOPICS for number in range(3)]
        written = sum((await consumer.end_offsets(partitions)).values())
        return {
            "records": written,
            "groups": sum(name.startswith(prefix) for name, *_ in await admin.list_consumer_groups()),
        }
    finally:
        await admin.close()
        await consumer.stop()


def test_all_is_well_and_nothing_is_changed(kafka: str, prefix: str, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    where = {**on(kafka, prefix), **in_bucket(s3, bucket)}
    assert stream_worker(tmp_path, "topics", "create", timeout_s=300, **where).returncode == Exit.OK
    code, found = doctor(tmp_path, **where)
    assert code == Exit.OK, found
    for check in ("versions", "broker", "brokers", "topics", "acls", "store", "python", "weights"):
        assert states(found, check) == {"ok"}, found[check]
    assert "or later" in only(found, "broker")["seen"]
    assert len(found["acls"]) == len(Part)
    assert len(found["store"]) == 2, "put and read; a conditional put refused"
    assert not list(Minio(s3.endpoint, s3.access_key, s3.secret_key, secure=False).list_objects(bucket, recursive=True))
    assert run(ends(kafka, prefix)) == {"records": 0, "groups": 0}


def test_missing_topics_are_said_and_not_made(kafka: str, prefix: str, tmp_path: Path) -> None:
    where = on(kafka, prefix)
    code, found = doctor(tmp_path, "--role", "aggregator", **where)
    assert code == Exit.FAILED
    assert len(found["topics"]) == len(topics.TOPICS)
    assert states(found, "topics") == {"failed"}
    assert all("stream-worker topics create" in finding["do"] for finding in found["topics"])
    assert not run(topics.counts(Kafka(bootstrap_servers=kafka, prefix=prefix)))
    assert "store" not in found, "an aggregator has none"


def test_topics_too_narrow_for_our_events_are_said(kafka: str, prefix: str, tmp_path: Path) -> None:
    where = on(kafka, prefix)
    narrow = {**where, "KAFKA__MAX_EVENT_BYTES": "100000"}
    assert stream_worker(tmp_path, "topics", "create", timeout_s=300, **narrow).returncode == Exit.OK
    code, found = doctor(tmp_path, "--role", "publisher", **where)
    assert code == Exit.FAILED
    assert "max.message.bytes" in only(found, "topics")["seen"]
    assert "kafka-configs.sh" in only(found, "topics")["do"]


def test_a_broker_that_is_away_keeps_nothing_else_from_being_looked_at(
    tmp_path: Path, nowhere: dict[str, str], s3: S3Server, bucket: str
) -> None:
    code, found = doctor(tmp_path, "--role", "reconstructor", **nowhere, **in_bucket(s3, bucket))
    assert code == Exit.FAILED
    assert nowhere["KAFKA__BOOTSTRAP_SERVERS"] in only(found, "broker")["seen"]
    assert states(found, "broker") == {"failed"}
    assert states(found, "topics") == states(found, "acls") == {"not checked"}
    assert states(found, "store") == {"ok"}


def test_a_wrong_secret_and_no_bucket_are_told_apart(
    tmp_path: Path, nowhere: dict[str, str], s3: S3Server, bucket: str
) -> None:
    role = ("--role", "reconstructor")
    code, found = doctor(tmp_path, *role, **nowhere, **in_bucket(s3, bucket, secret=CANARY))
    assert code == Exit.FAILED
    assert "secret_key_file" in only(found, "store")["do"], found["store"]
    absent = {**in_bucket(s3, "no-such-bucket-here"), "STORE__CREATE_BUCKET": "true"}
    _, found = doctor(tmp_path, *role, **nowhere, **absent)
    assert "no such bucket" in only(found, "store")["seen"]
    assert not Minio(s3.endpoint, s3.access_key, s3.secret_key, secure=False).bucket_exists("no-such-bucket-here")


def test_weights_device_interpreter_and_an_unmounted_store(tmp_path: Path, nowhere: dict[str, str]) -> None:
    """Four things that are wrong at the same time are four findings."""
    place = tmp_path / "mount"
    place.mkdir()
    wrong = {
        "STORE__URL": str(place),
        "DETECTOR__WEIGHTS_SHA256": "0" * 64,
        "DETECTOR__DEVICE": "cuda",
        "DETECTOR__PYTHON": "/nowhere/python",
    }
    code, found = doctor(tmp_path, "--role", "detector", **nowhere, **wrong)
    assert code == Exit.FAILED
    assert states(found, "weights") == states(found, "python") == {"failed"}
    assert "sha256" in only(found, "weights")["seen"]
    assert "/nowhere/python" in only(found, "python")["seen"]
    assert states(found, "store") == {"warning"}
    assert not list(place.iterdir()), "the empty folder of a store that is not mounted stays empty"
    if not NVIDIA.exists():
        assert states(found, "gpu") == {"failed"}


def test_a_full_disk_is_said(tmp_path: Path, nowhere: dict[str, str]) -> None:
    with tmpfs(tmp_path / "data", "1m"):
        code, found = doctor(tmp_path, "--role", "publisher", **nowhere)
    assert code == Exit.FAILED
    assert states(found, "disk") == {"failed"}


async def test_a_program_that_hangs_is_killed(tmp_path: Path) -> None:
    """As a kernel does on a GPU that has fallen off its bus: it costs its time limit, and leaves nobody behind."""
    mark = tmp_path / "pid"
    program = "import os, sys, time; open(sys.argv[1], 'w').write(f'{os.getpid()}\\n'); time.sleep(3600)"
    section = Settings().reconstructor
    assert "no answer" in (await child.answer(section, program, [str(mark)], 0.2))["fault"]
    mark.unlink(missing_ok=True)
    asked = asyncio.create_task(child.answer(section, program, [str(mark)], 3600))
    while not (mark.exists() and mark.read_text().endswith("\n")):  # noqa: ASYNC110  # a file tells nobody
        await asyncio.sleep(0.05)
    asked.cancel()
    await asyncio.wait([asked])
    assert not Path(f"/proc/{int(mark.read_text())}").exists()


def test_rights_are_tried_and_a_refusal_says_why(secured: SecuredKafka, tmp_path: Path) -> None:
    def tried(role: Role, part: Part) -> Finding:
        (finding,) = run(rights.rights(secured.by_password(role, PREFIX), [part]))
        return finding

    run(secured.furnish(PREFIX))
    for part in Part:
        own = tried(Role(part), part)
        assert own.state is State.OK, own
    lacking = tried(Role.PUBLISHER, Part.DETECTOR)
    assert lacking.state is State.FAILED
    for right in ("READ topic doctor-images", "READ group doctor-detector", "WRITE transactional_id doctor-detector"):
        assert right in lacking.seen
    assert "WRITE topic doctor-images" not in lacking.seen

    password = tmp_path / "password"
    password.write_text(CANARY)
    wrong = secured.by_password(Role.DETECTOR, PREFIX).model_copy(update={"password_file": password})
    (refused,), kafka = run(reach.brokers(Settings(kafka=wrong)))
    assert kafka is None
    assert refused.state is State.FAILED
    assert "wrong name or password" in refused.seen
    assert CANARY not in str(refused)
