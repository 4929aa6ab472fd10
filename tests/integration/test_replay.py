"""Photos done again under a run of their own, by the real groups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from stream_worker import topics
from stream_worker.audit.run import audit
from stream_worker.comparison import compare
from stream_worker.contract import decode
from stream_worker.errors import Exit, UserError
from stream_worker.events import CompletedImageEvent, DetectionEvent, ImageEvent, ObjectEvent, utc_now
from stream_worker.pace import FOR_PHOTOS, Pace
from stream_worker.publish import Publisher
from stream_worker.reading import TopicReader
from stream_worker.reconstructor import Reconstructor
from stream_worker.replay.plan import Plan, plan
from stream_worker.replay.selection import Offsets, Selection, Source
from stream_worker.replay.send import Done, replay
from stream_worker.results import Waiting
from stream_worker.settings import Settings
from stream_worker.window import Window
from tests.command import COMMAND, beside, environ, require_mistake, stream_worker
from tests.integration.test_stage import read
from tests.photo_server import Answer, serving
from tests.staging import running, whole, with_stubs
from tests.stubs import photo

NAMES = ("two", "one", "gone", "empty")
pytestmark = pytest.mark.timeout(180)


def answer(path: str) -> Answer:
    if "gone" in path:
        return 404, "text/plain", b""
    objects = {"two": 2, "one": 1}
    return 200, "image/png", photo(7, next((count for name, count in objects.items() if name in path), 0))


@pytest.fixture
async def service(kafka: str, prefix: str, tmp_path: Path) -> AsyncIterator[Settings]:
    """The groups at work, and four images that are done; one of them was published twice."""
    with serving(answer) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        async with Waiting(settings) as waiting, whole(settings):
            async with Publisher(settings) as publisher:
                for name in (*NAMES, "two"):
                    await publisher.publish(f"{base}/{name}", image_id=name, metadata={"of": name}, deadline_s=300)
            for name in NAMES:
                await waiting.wait_for(name)
            yield settings


async def named(settings: Settings, planned: Plan) -> list[str]:
    """The image ids that a plan means, read at the places that it names."""
    kind: type[ImageEvent] | type[DetectionEvent] = ImageEvent
    if planned.source is Source.OBJECTS:
        kind = DetectionEvent
    topic = settings.kafka.prefix + planned.source.topic
    found = []
    async with TopicReader(settings.kafka) as reader:
        for image in planned.images:
            record = await reader.record(TopicPartition(topic, image.place[0]), image.place[1])
            assert record is not None
            found.append(decode(kind, record.value).image_id)
    return sorted(found)


async def outcomes(settings: Settings, count: int) -> list[CompletedImageEvent]:
    return [decode(CompletedImageEvent, record.value) for record in await read(settings, topics.COMPLETED, count)]


async def test_who_is_chosen(service: Settings) -> None:
    async def chosen(**fields: Any) -> list[str]:
        return await named(service, await plan(service, Selection(**fields), "again"))

    assert await chosen() == ["empty", "gone", "one", "two"]
    assert await chosen(source=Source.OBJECTS) == ["one", "two"]
    for source in Source:
        assert await chosen(source=source, ids=frozenset({"one", "nobody"})) == ["one"]
        assert await chosen(source=source, ids=frozenset()) == []
        assert await chosen(source=source, labels=frozenset({"square-1"})) == ["two"]
        assert await chosen(source=source, labels=frozenset({"square-0"}), statuses=frozenset({"failed"})) == []
        assert await chosen(source=source, run="another") == []
        assert await chosen(source=source, window=Window(until=utc_now() - timedelta(hours=1))) == []
        assert "one" in await chosen(source=source, window=Window(since=utc_now() - timedelta(hours=1)))
        halves = [await chosen(source=source, offsets=[Offsets(partition)]) for partition in range(2)]
        assert sorted([*halves[0], *halves[1]]) == await chosen(source=source)
        assert await chosen(source=source, offsets=[Offsets(0), Offsets(1)]) == await chosen(source=source)
        assert await chosen(source=source, offsets=[Offsets(0, 1000), Offsets(1, 0, 0)]) == []
    assert await chosen(statuses=frozenset({"failed", "partial"})) == ["gone"]
    assert await chosen(reasons=frozenset({"fetch_failed"})) == ["gone"]
    with pytest.raises(UserError, match="a run of its own"):
        await plan(service, Selection(), "live")


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        ("0:100-250", Offsets(0, 100, 251)),
        ("3:100-", Offsets(3, 100)),
        ("3:-7", Offsets(3, 0, 8)),
        ("12:-", Offsets(12)),
    ],
)
def test_offsets_as_a_person_writes_them(text: str, offsets: Offsets) -> None:
    assert Offsets.parse(text) == offsets
    assert (offsets.partition, offsets.first) in offsets
    assert (offsets.partition + 1, offsets.first) not in offsets
    for wrong in ("", "0", "0:5", "x:1-2", "-1:0-5", text + "0:"):
        with pytest.raises(UserError, match="names no offsets"):
            Offsets.parse(wrong)


@pytest.mark.parametrize(("source", "names"), [(Source.IMAGES, NAMES), (Source.OBJECTS, ("two", "one"))])
async def test_a_replay_that_is_stopped_goes_on_where_it_was(
    service: Settings, source: Source, names: tuple[str, ...]
) -> None:
    selection = Selection(source=source)
    planned: list[Plan] = []
    first = asyncio.create_task(replay(service, selection, "again", ahead=1, per_second=2, planned=planned.append))
    begun = [one for one in await outcomes(service, 5) if one.run == "again"]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = await replay(service, selection, "again", planned=planned.append)
    assert len(planned[0].images) == len(names) == len(planned[1].images) + planned[1].sent
    assert planned[1].sent >= 1
    assert planned[0].model_s is not None
    assert planned[0].model_s > 0
    assert second.statuses.total() == len(planned[1].images) + len(planned[1].under_way)
    third = await replay(service, selection, "again", planned=planned.append)
    assert (planned[2].sent, planned[2].images, third.statuses) == (len(names), [], Counter())
    done = [one for one in await outcomes(service, 4 + len(names)) if one.run == "again"]
    assert begun
    assert all(one in done for one in begun)
    assert sorted(one.image_id for one in done) == sorted(names)
    assert all(one.metadata == {"of": one.image_id} for one in done)
    assert all(one.reused for image in done for one in image.objects), "the same settings: no GPU time"
    report = await audit(service, drained=True)
    assert report.holds, report.plain()


async def test_what_was_found_before_stays_and_has_a_time_of_its_own(service: Settings) -> None:
    done = await replay(service, Selection(source=Source.OBJECTS, ids=frozenset({"two"})), "again")
    assert (done.statuses, done.objects, done.reused) == (Counter(complete=1), 2, 2)
    sent = [decode(ObjectEvent, record.value) for record in await read(service, topics.OBJECTS, 7)]
    before = {one.index: one for one in sent if (one.run, one.image_id) == ("live", "two")}
    again = {one.index: one for one in sent if one.run == "again"}
    assert sorted(again) == sorted(before) == [0, 1]
    for index, one in again.items():
        own = {"object_id", "run", "published_at", "detected_at", "deadline_at"}
        assert one.model_dump(exclude=own) == before[index].model_dump(exclude=own)
        assert one.object_id != before[index].object_id
        assert one.published_at > before[index].published_at
    assert len(await read(service, topics.IMAGES, 5)) == 5, "no photo is fetched or detected again"


async def test_results_of_the_same_work_are_found_again_unless_they_are_to_be_computed(service: Settings) -> None:
    def of(done: Done) -> tuple[int, int]:
        return done.objects, done.reused

    assert of(await replay(service, Selection(), "found")) == (3, 3)
    assert of(await replay(service, Selection(), "computed", recompute=True)) == (3, 0)
    selection = Selection(source=Source.OBJECTS)
    assert of(await replay(service, selection, "reconstructed", recompute=True)) == (3, 0)
    assert of(await replay(service, Selection(source=Source.OBJECTS, run="reconstructed"), "thrice")) == (3, 3)
    same = await compare(service, "live", "computed")
    assert (same.images, same.matched, same.changes) == (4, 3, [])
    assert same.volume == (1.0, 1.0, 1.0)


async def test_an_image_whose_objects_are_not_all_there_is_left_out(service: Settings) -> None:
    planned = await plan(service, Selection(source=Source.OBJECTS, ids=frozenset({"one"})), "again")
    (partition, offset) = planned.images[0].objects[0]
    async with topics.admin(service.kafka) as admin:
        where = TopicPartition(service.kafka.prefix + topics.OBJECTS, partition)
        await admin.delete_records({where: RecordsToDelete(before_offset=offset + 1)})
    planned = await plan(service, Selection(source=Source.OBJECTS, ids=frozenset({"one"})), "again")
    assert (planned.incomplete, planned.images) == (1, [])


async def test_one_process_at_a_time_does_a_run(service: Settings) -> None:
    first = asyncio.create_task(replay(service, Selection(), "again", ahead=1, per_second=0.2))
    await read(service, topics.COMPLETED, 5)
    second = await replay(service, Selection(), "again", ahead=1)
    with pytest.raises(UserError, match="another process") as stopped:
        await first
    assert stopped.value.exit_code is Exit.FAILED
    assert second.statuses.total() >= 3
    again = [one for one in await outcomes(service, 8) if one.run == "again"]
    assert sorted(one.image_id for one in again) == sorted(NAMES)
    sent = [decode(ImageEvent, record.value).run for record in await read(service, topics.IMAGES, 9)]
    assert Counter(sent) == Counter(live=5, again=4), "nothing was sent twice"


async def test_a_replay_sends_nothing_while_live_photos_wait(kafka: str, prefix: str, tmp_path: Path) -> None:
    with serving(answer) as base:
        settings = with_stubs(kafka, prefix, tmp_path, base)
        await topics.create(settings.kafka)
        async with Pace(settings.kafka, FOR_PHOTOS) as pace, Publisher(settings) as publisher:
            idle = asyncio.create_task(pace.room())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(idle), 2)  # nobody works
            async with whole(settings):
                await asyncio.wait_for(idle, 30)
            async with running(Reconstructor(settings, "r-0"), settings):
                await publisher.publish(f"{base}/two", image_id="two")
                waits = asyncio.create_task(pace.room())
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(waits), 2)  # a photo lies there, and no detector is here
                async with whole(settings):
                    await asyncio.wait_for(waits, 30)


def test_the_command(service: Settings, tmp_path: Path) -> None:
    asked = ["replay", "--run", "again", "--status", "failed"]
    said = stream_worker(tmp_path, *asked, **beside(service))
    assert said.returncode == 0, said.stderr
    assert "1 images to do again from images as run again" in said.stdout
    assert "--yes" in said.stdout
    wrong = stream_worker(tmp_path, *asked[:3], "--ids", "/no/such/file", **beside(service))
    require_mistake(wrong, Exit.USAGE, "/no/such/file")
    wrong = stream_worker(tmp_path, *asked[:3], "--offsets", "0:5", **beside(service))
    require_mistake(wrong, Exit.USAGE, "names no offsets")
    wrong = stream_worker(tmp_path, "compare", "live", "nobody", **beside(service))
    require_mistake(wrong, Exit.FAILED, "no completed image of run nobody")


async def test_the_command_that_is_killed_and_given_again(service: Settings, tmp_path: Path) -> None:
    asked = [*COMMAND, "replay", "--run", "again", "--source", "objects", "--rate", "1", "--yes"]
    env = environ(tmp_path, **beside(service))
    first = await asyncio.create_subprocess_exec(*asked, env=env, stdout=subprocess.DEVNULL)
    try:
        await read(service, topics.COMPLETED, 5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first.pid, signal.SIGKILL)
        await first.wait()
    said = await asyncio.to_thread(stream_worker, tmp_path, *asked[len(COMMAND) :], **beside(service))
    assert said.returncode == 0, said.stderr
    assert "1 were sent before" in said.stdout
    assert "1 complete" in said.stdout
    shown = await asyncio.to_thread(stream_worker, tmp_path, "compare", "live", "again", **beside(service))
    assert shown.returncode == 0, shown.stderr
    assert "No image has another outcome" in shown.stdout
    report = await audit(service, drained=True)
    assert report.holds, report.plain()
