"""An image's story through real groups: `stream-worker show`."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from stream_worker import topics
from stream_worker.errors import Exit, UserError
from stream_worker.events import utc_now
from stream_worker.inference import device_of
from stream_worker.publish import Publisher
from stream_worker.results import Waiting
from stream_worker.settings import Settings
from stream_worker.story import lines, story
from tests.command import beside, stream_worker
from tests.photo_server import serving
from tests.staging import whole, with_stubs
from tests.stubs import photo


@pytest.fixture
async def done(kafka: str, prefix: str, tmp_path: Path) -> Settings:
    """Two images that went through the whole service, and one whose photo is not there."""

    def answer(path: str) -> tuple[int, str, bytes]:
        if "gone" in path:
            return 404, "text/plain", b""
        return 200, "image/png", photo(8 if "another" in path else 7, 2)

    with serving(answer) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        async with Waiting(settings) as waiting, Publisher(settings) as publisher, whole(settings):
            await publisher.publish(f"{base}/room?token=secret", image_id="room")
            await publisher.publish(f"{base}/another", image_id="another")
            await publisher.publish(f"{base}/gone", image_id="gone\x1b[31m")
            for name in ("room", "another", "gone\x1b[31m"):
                await waiting.wait_for(name)
    return settings


async def test_the_story_of_an_image_and_of_no_other(done: Settings) -> None:
    chapters = await story(done, "room")
    said = [(one.what, one.subject, one.worker) for one in chapters]
    assert said[0][0] == "published"
    assert sorted(said) == sorted(
        [
            ("published", "image", "publisher"),
            ("found", "image", "detector/d-0"),
            ("handed out", "#0 square-0", "detector/d-0"),
            ("handed out", "#1 square-1", "detector/d-0"),
            ("reconstructed", "#0 square-0", "reconstructor/r-0"),
            ("reconstructed", "#1 square-1", "reconstructor/r-0"),
            ("completed", "image", "aggregator/a-0"),
        ]
    )
    assert said[-1][0] == "completed"
    assert [one.at for one in chapters] == sorted(one.at for one in chapters)
    assert {one.run for one in chapters} == {"live"}
    (found,) = [one for one in chapters if one.what == "found"]
    assert {"fetch", "decode", "detect"} <= set(found.times)
    made = [one.detail for one in chapters if one.what == "reconstructed"]
    assert made == [f"dots, on {device_of(done.reconstructor)}"] * 2
    assert "secret" not in repr(chapters)


async def test_the_story_of_one_that_failed_has_its_dead_letter(done: Settings) -> None:
    chapters = await story(done, "gone\x1b[31m")
    assert {one.what for one in chapters} == {"published", "failed", "dead letter", "completed"}
    (letter,) = [one for one in chapters if one.what == "dead letter"]
    assert letter.detail.startswith("fetch_failed after 1 attempts, from images: the host answered 404")
    with pytest.raises(UserError, match="know nothing of an image 'nobody'") as error:
        await story(done, "nobody")
    assert error.value.exit_code is Exit.FAILED
    with pytest.raises(UserError, match="know nothing"):
        await story(done, "room", since=utc_now())


async def test_the_rows_are_what_a_person_reads(done: Settings) -> None:
    rows = list(lines(await story(done, "room")))
    assert rows[0][1:5] == ("0.00", "live", "published", "image")
    assert "complete, revision 1" in rows[-1]


def test_the_command(done: Settings, tmp_path: Path) -> None:
    shown = stream_worker(tmp_path, "show", "gone\x1b[31m", **beside(done))
    assert shown.returncode == 0, shown.stderr
    assert "dead letter" in shown.stdout
    assert "\x1b[31m" not in shown.stdout, "an id must not colour a terminal"
    parts = stream_worker(tmp_path, "show", "room", "--format", "json", **beside(done))
    assert [orjson.loads(line)["what"] for line in parts.stdout.splitlines()][-1] == "completed"
