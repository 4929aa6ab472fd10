"""Dead letters on a real broker: listed, shown without harm, exported whole."""

from __future__ import annotations

import subprocess
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from stream_worker import topics
from stream_worker.dead_letters import dead_letter
from stream_worker.errors import Exit, Reason, RecordFault, UserError
from stream_worker.events import utc_now
from stream_worker.letters import SHOWN_BYTES, Wanted, letter, letters, readable, retried, send
from stream_worker.publish import Publisher
from stream_worker.records import Output, Received
from stream_worker.results import Waiting
from stream_worker.settings import Kafka, Settings
from stream_worker.transaction import TransactionalProducer
from tests.command import beside, require_mistake, stream_worker
from tests.photo_server import Answer, serving
from tests.staging import whole, with_stubs
from tests.stubs import photo

HOSTILE = b"\x1b[2J\x00\xff" * 3
RECORDS = [
    (Received("images", 0, 5, 1, b"a", b'{"image_id": "a", "url": "u"}'), Reason.FETCH_FAILED, "detector"),
    (Received("images", 1, 6, 1, HOSTILE, HOSTILE, (("x\x1b[2J", HOSTILE),)), Reason.INVALID_EVENT, "detector"),
    (Received("objects", 2, 7, 1, None, None), Reason.MODEL_CRASHED, "reconstructor"),
    (Received("images", 0, 8, 1, b"b", b"plain text"), Reason.FETCH_FAILED, "detector"),
]

Invoke = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
async def settings(kafka: str, prefix: str) -> Settings:
    made = Settings(kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=3))
    await topics.create(made.kafka)
    now = utc_now()
    producer = TransactionalProducer(made.kafka, prefix + "writer", prefix + "nobody")
    await producer.start()
    outputs = [
        dead_letter(record, RecordFault(reason, f"why {number}\x1b[2J"), stage, 1 + number, now, now)
        for number, (record, reason, stage) in enumerate(RECORDS)
    ]
    await producer.write([replace(output, partition=0) for output in outputs], {})
    await producer.stop()
    return made


@pytest.fixture
def invoke(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Invoke:
    folder = tmp_path_factory.mktemp("commands")
    return lambda *arguments: stream_worker(folder, "dead-letters", *arguments, **beside(settings))


async def names(settings: Settings, wanted: Wanted) -> list[str]:
    return [one.name async for one in letters(settings, wanted)]


async def test_those_that_are_wanted(settings: Settings) -> None:
    assert await names(settings, Wanted()) == ["0:0", "0:1", "0:2", "0:3"]
    assert await names(settings, Wanted(topic="objects")) == ["0:2"]
    assert await names(settings, Wanted(stage="detector")) == ["0:0", "0:1", "0:3"]
    assert await names(settings, Wanted(reasons=frozenset({"fetch_failed", "model_crashed"}))) == ["0:0", "0:2", "0:3"]
    assert await names(settings, Wanted(topic="images", reasons=frozenset({"model_crashed"}))) == []


async def test_a_letter_is_the_record_as_it_came(settings: Settings) -> None:
    found = await letter(settings, "0:1")
    record, reason, stage = RECORDS[1]
    assert (found.key, found.value, found.headers) == (record.key, record.value, record.headers)
    assert (found.topic, found.place, found.reason, found.stage) == ("images", "1:6", reason.value, stage)
    assert found.attempts == "2"
    for wrong in ("0:4", "0:99", "2:0"):
        with pytest.raises(UserError, match="there is no dead letter") as error:
            await letter(settings, wrong)
        assert error.value.exit_code is Exit.FAILED
    for wrong in ("3:0", "x", "0", "-1:0", "0:0:0"):
        with pytest.raises(UserError, match="names no dead letter"):
            await letter(settings, wrong)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "(null: a tombstone)"),
        (b"", "(empty)"),
        (b'{"a":1}', '{\n  "a": 1\n}'),
        ("Sofa für zwei\n".encode(), "Sofa für zwei\n"),
        (b"\x1b[2J", "000000  1b 5b 32 4a".ljust(57) + ".[2J"),
    ],
)
def test_what_a_person_reads(value: bytes | None, shown: str) -> None:
    assert readable(value) == shown


def test_a_long_value_is_shown_in_part() -> None:
    assert readable(b"\xff" * (SHOWN_BYTES + 5)).splitlines()[-1] == "... and 5 bytes more"


def test_the_list(invoke: Invoke) -> None:
    listed = invoke("list")
    assert listed.returncode == 0, listed.stderr
    assert "2 fetch_failed, 1 invalid_event, 1 model_crashed" in listed.stdout
    assert "\x1b[2J" not in listed.stdout
    found = invoke("list", "--reason", "fetch_failed", "--format", "json")
    assert [orjson.loads(line)["name"] for line in found.stdout.splitlines()] == ["0:0", "0:3"]
    assert "no dead letters" in invoke("list", "--stage", "nobody").stdout


def test_one_is_shown_without_harm(invoke: Invoke) -> None:
    shown = invoke("show", "0:1")
    assert shown.returncode == 0, shown.stderr
    assert "invalid_event" in shown.stdout
    assert "1b 5b 32 4a 00 ff" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert '"image_id": "a"' in invoke("show", "0:0").stdout


def test_the_export_is_whole_and_appears_at_once(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "letters.jsonl"
    assert "4 dead letters" in invoke("export", str(file)).stdout
    lines = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    assert [line["value"] and b64decode(line["value"]) for line in lines] == [record.value for record, *_ in RECORDS]
    require_mistake(invoke("export", str(file)), Exit.USAGE, "letters.jsonl")
    require_mistake(invoke("export", str(tmp_path / "nowhere" / "letters.jsonl")), Exit.FAILED, "nowhere")
    assert list(tmp_path.iterdir()) == [file]


def test_by_default_a_retry_only_says_what_it_would_do(invoke: Invoke, settings: Settings) -> None:
    said = invoke("retry", "--topic", "images")
    assert said.returncode == 0, said.stderr
    assert "1 dead letters would be sent: 1 to images; 2 left out" in said.stdout
    assert "0:1 is left out: it can't be read" in said.stderr
    assert "\x1b" not in said.stdout


@pytest.mark.timeout(120)
async def test_a_photo_that_is_there_again_is_done_under_a_run_of_its_own(
    kafka: str, prefix: str, tmp_path: Path
) -> None:
    there: list[bool] = []

    def answer(_: str) -> Answer:
        return (200, "image/png", photo(7, 2)) if there else (404, "text/plain", b"")

    with serving(answer) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        async with Waiting(settings) as waiting, whole(settings):
            async with Publisher(settings) as publisher:
                await publisher.publish(f"{base}/sofa", image_id="sofa", metadata={"order": 7})
            assert (await waiting.wait_for("sofa")).status == "failed"
            there.append(True)
            for _ in range(2):  # sent twice, it is done once

                async def outputs() -> AsyncIterator[Output]:
                    async for one in letters(settings, Wanted()):
                        found = retried(one, 3, 3600, utc_now())
                        assert isinstance(found, Output)
                        yield found

                assert await send(settings, outputs()) == 1
                again = await waiting.wait_for("sofa", run="live.retry-1")
            assert (again.status, len(again.objects), again.revision) == ("complete", 2, 1)
            assert again.metadata == {"order": 7}
