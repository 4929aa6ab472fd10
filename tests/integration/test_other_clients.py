"""Publishing and reading without our library: the README's lines for kcat (librdkafka), as they stand there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stream_worker import topics
from stream_worker.contract import decode
from stream_worker.events import ImageEvent
from stream_worker.publish import Publisher
from stream_worker.settings import Kafka, Settings
from stream_worker.story import story
from tests.integration.test_stage import read

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(shutil.which("kcat") is None, reason="no kcat here (Debian: apt-get install kcat)")


@pytest.fixture
async def settings(kafka: str, prefix: str) -> Settings:
    made = Settings(kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=3))
    await topics.create(made.kafka)
    return made


def line(settings: Settings, what: str) -> str:
    """The README's line for a topic, with this test's broker and topic."""
    (found,) = re.findall(rf"^.*kcat .*-t {what}\b.*$", README, re.MULTILINE)
    there = found.replace("kafka:9092", str(settings.kafka.bootstrap_servers))
    return there.replace(f"-t {what}", f"-t {settings.kafka.prefix}{what}")


def shell(command: str) -> str:
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True, timeout=60).stdout


async def test_a_photo_that_kcat_publishes_is_one_of_ours(settings: Settings) -> None:
    for _ in range(5):  # without a key it would be spread over the partitions
        shell(line(settings, topics.IMAGES))
    records = await read(settings, topics.IMAGES, 5)
    assert len({record.partition for record in records}) == 1
    event = decode(ImageEvent, records[0].value)
    assert (records[0].key, event.image_id, event.url) == (b"room-1", "room-1", "https://example.com/room.jpg")
    assert dict(records[0].headers)["content-type"] == b"application/json"
    assert [one.what for one in await story(settings, "room-1")] == ["published"] * 5


async def test_kcat_reads_what_is_committed(settings: Settings) -> None:
    async with Publisher(settings) as publisher:
        await publisher.publish("https://example.com/room.jpg", image_id="room-1")
    said = shell(line(settings, topics.COMPLETED).replace(topics.COMPLETED, topics.IMAGES) + " -e")
    assert json.loads(said.splitlines()[-1])["image_id"] == "room-1"
