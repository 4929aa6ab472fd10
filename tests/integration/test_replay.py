"""Photos done again under a run of their own, by the real groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace as but
from datetime import timedelta
from pathlib import Path

import pytest

from stream_worker import topics
from stream_worker.audit.run import audit
from stream_worker.contract import decode
from stream_worker.errors import Exit, UserError
from stream_worker.events import CompletedImageEvent, ImageEvent, utc_now
from stream_worker.publish import Publisher
from stream_worker.replay import Plan, Selection, plan, replay
from stream_worker.results import Waiting
from stream_worker.settings import Settings
from stream_worker.window import Window
from tests.command import beside, require_mistake, stream_worker
from tests.integration.test_stage import read
from tests.photo_server import Answer, serving
from tests.staging import whole, with_stubs
from tests.stubs import photo

NAMES = ("two", "one", "gone")
pytestmark = pytest.mark.timeout(180)


def answer(path: str) -> Answer:
    if "gone" in path:
        return 404, "text/plain", b""
    return 200, "image/png", photo(7, 2) if "two" in path else photo(8, 1)


@pytest.fixture
async def service(kafka: str, prefix: str, tmp_path: Path) -> AsyncIterator[Settings]:
    """The groups at work, and three images that are done; one of them was published twice."""
    with serving(answer) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        async with Waiting(settings) as waiting, whole(settings):
            async with Publisher(settings) as publisher:
                for name in (*NAMES, "two"):
                    await publisher.publish(f"{base}/{name}", image_id=name, metadata={"of": name})
            for name in NAMES:
                await waiting.wait_for(name)
            yield settings


def named(planned: Plan) -> list[str]:
    return sorted(decode(ImageEvent, value).image_id for value in planned.photos)


async def test_who_is_chosen(service: Settings) -> None:
    async def chosen(**fields: object) -> list[str]:
        return named(await plan(service, Selection(**fields), "again"))  # type: ignore[arg-type]

    assert await chosen() == ["gone", "one", "two"]
    assert await chosen(ids=frozenset({"one", "nobody"})) == ["one"]
    assert await chosen(ids=frozenset()) == []
    assert await chosen(statuses=frozenset({"failed", "partial"})) == ["gone"]
    assert await chosen(reasons=frozenset({"fetch_failed"})) == ["gone"]
    assert await chosen(labels=frozenset({"square-1"})) == ["two"]
    assert await chosen(labels=frozenset({"square-0"}), statuses=frozenset({"failed"})) == []
    assert await chosen(run="another") == []
    assert await chosen(window=Window(until=utc_now() - timedelta(hours=1))) == []
    assert await chosen(window=Window(since=utc_now() - timedelta(hours=1))) == ["gone", "one", "two"]
    with pytest.raises(UserError, match="a run of its own"):
        await plan(service, Selection(), "live")


async def test_a_replay_that_is_stopped_goes_on_where_it_was(service: Settings) -> None:
    planned = await plan(service, Selection(), "again")
    assert planned.model_s is not None
    assert planned.model_s > 0
    first = await replay(service, but(planned, photos=planned.photos[:1]), ahead=1)
    rest = await plan(service, Selection(), "again")
    assert (rest.sent, len(rest.photos)) == (1, 2)
    second = await replay(service, rest, ahead=1)
    assert first.statuses + second.statuses == Counter(complete=2, failed=1)
    assert first.objects + second.objects == first.reused + second.reused == 3, "the same settings: no GPU time"
    over = await plan(service, Selection(), "again")
    assert (over.sent, over.photos) == (3, [])
    assert (await replay(service, over, ahead=1)).statuses == Counter()
    records = await read(service, topics.COMPLETED, 6)
    outcomes = [decode(CompletedImageEvent, record.value) for record in records]
    assert Counter((one.image_id, one.run) for one in outcomes) == Counter(
        (name, run) for name in NAMES for run in ("live", "again")
    )
    assert all(one.metadata == {"of": one.image_id} for one in outcomes)
    report = await audit(service, drained=True)
    assert report.holds, report.plain()


async def test_a_replay_of_a_replay(service: Settings) -> None:
    chosen = Selection(ids=frozenset({"one"}))
    await replay(service, await plan(service, chosen, "second"), ahead=4, per_second=50)
    assert named(await plan(service, Selection(run="second"), "third")) == ["one"]


def test_by_default_the_command_only_says_what_it_would_do(service: Settings, tmp_path: Path) -> None:
    asked = ["replay", "--run", "again", "--status", "failed"]
    said = stream_worker(tmp_path, *asked, **beside(service))
    assert said.returncode == 0, said.stderr
    assert "1 photos to do again as run again" in said.stdout
    assert "--yes" in said.stdout
    wrong = stream_worker(tmp_path, *asked[:3], "--ids", "/no/such/file", **beside(service))
    require_mistake(wrong, Exit.USAGE, "/no/such/file")
