"""Completed images, read as an app reads them: as a stream, in a group, or the one that is waited for."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from stream_worker import results, topics
from stream_worker.contract import encode
from stream_worker.errors import Exit, Reason, RecordFault, UserError
from stream_worker.events import CompletedImageEvent, utc_now
from stream_worker.results import Results, Waiting, download
from stream_worker.settings import Kafka, Local, Settings
from stream_worker.store import open_store

PARTITIONS = 3


@pytest.fixture
async def settings(kafka: str, prefix: str, tmp_path: Path) -> Settings:
    made = Settings(
        kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=PARTITIONS, session_timeout_ms=6000),
        local=Local(data_dir=tmp_path),
    )
    await topics.create(made.kafka)
    return made


def completed(image_id: str, revision: int = 1) -> CompletedImageEvent:
    now = utc_now()
    return CompletedImageEvent(
        image_id=image_id,
        run="live",
        revision=revision,
        status="complete",
        objects=[],
        published_at=now,
        completed_at=now,
    )


async def complete(settings: Settings, *images: str | bytes, transaction: bool | None = None) -> None:
    """Write outcomes (or bytes that are none), each to the partition of its place; in a transaction that is committed,
    in one that is aborted, or in none."""
    own = {} if transaction is None else {"transactional_id": settings.kafka.prefix + "writer"}
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers, acks="all", **own) as producer:
        if transaction is not None:
            await producer.begin_transaction()
        for number, image in enumerate(images):
            value = image if isinstance(image, bytes) else encode(completed(image))
            topic = settings.kafka.prefix + topics.COMPLETED
            await producer.send_and_wait(topic, value, key=b"any", partition=number % PARTITIONS)
        if transaction is not None:
            await (producer.commit_transaction() if transaction else producer.abort_transaction())


async def some(reading: Results, count: int, within_s: float = 30) -> list[str]:
    """The next so many images."""
    async with asyncio.timeout(within_s):
        return [(await anext(reading)).image_id for _ in range(count)]


async def none_comes(reading: Results) -> None:
    with pytest.raises(TimeoutError):
        await some(reading, 1, within_s=2)


async def test_from_now_on_is_from_when_it_was_entered(settings: Settings) -> None:
    await complete(settings, "before")
    async with Results(settings) as reading:
        await complete(settings, "a", "b", "c")
        assert sorted(await some(reading, 3)) == ["a", "b", "c"]
        await none_comes(reading)


async def test_since_a_time_those_that_came_then_are_read_too(settings: Settings) -> None:
    await complete(settings, "long ago")
    await asyncio.sleep(0.1)
    then = utc_now()
    await complete(settings, "a", "b")
    async with Results(settings, since=then) as reading:
        assert sorted(await some(reading, 2)) == ["a", "b"]
        await none_comes(reading)
    async with Results(settings, since=then - timedelta(days=1)) as reading:
        assert sorted(await some(reading, 3)) == ["a", "b", "long ago"]


async def test_what_is_not_committed_is_not_seen(settings: Settings) -> None:
    async with Results(settings) as reading:
        await complete(settings, "never", transaction=False)
        await complete(settings, "done", transaction=True)
        assert await some(reading, 1) == ["done"]
        await none_comes(reading)


async def test_what_can_not_be_read_is_passed_over(settings: Settings) -> None:
    async with Results(settings) as reading:
        await complete(settings, b"no JSON", b"{}", "good")
        assert await some(reading, 1) == ["good"]


async def test_a_group_goes_on_behind_the_image_that_was_finished_last(settings: Settings) -> None:
    await complete(settings, "a", "b", "c", "d")
    async with Results(settings, group="app") as reading:
        first = await some(reading, 2)
    third: list[str] = []

    async def die_with_one() -> None:
        async with Results(settings, group="app") as reading:
            third.extend(await some(reading, 1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await die_with_one()
    async with Results(settings, group="app") as reading:
        rest = await some(reading, 2)
        assert third[0] in rest
        await none_comes(reading)
    assert sorted(first + rest) == ["a", "b", "c", "d"]


async def test_batches_hold_what_is_there_and_count_as_read_as_a_whole(settings: Settings) -> None:
    await complete(settings, *(["a"] * 9), b"no JSON")
    taken: list[list[CompletedImageEvent]] = []

    async def die_with_the_second() -> None:
        async with Results(settings, group="app") as reading, asyncio.timeout(30):
            async for images in reading.batches(4):
                taken.append(images)
                if len(taken) == 2:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await die_with_the_second()
    assert all(1 <= len(images) <= 4 for images in taken)
    assert len(taken[0]) > 1
    async with Results(settings, group="app") as reading:
        rest = 9 - len(taken[0])
        async with asyncio.timeout(30):
            async for images in reading.batches(4):
                rest -= len(images)
                if rest <= 0:
                    break
        await none_comes(reading)
    assert rest == 0, "the second batch came again, whole, and nothing else did"
    with pytest.raises(ValueError, match="at least one"):
        await anext(Results(settings).batches(0))


async def test_a_group_stays_whole_while_its_app_takes_its_time_with_each_of_many(settings: Settings) -> None:
    patience_s = 3.0
    patient = settings.kafka.model_copy(update={"max_poll_interval_ms": round(1000 * patience_s)})
    names = [f"image-{number}" for number in range(20)]
    await complete(settings, *names)
    seen: list[str] = []
    async with Results(settings.model_copy(update={"kafka": patient}), group="app") as reading:
        while len(seen) < len(names):
            seen += await some(reading, 1)
            await asyncio.sleep(2 * patience_s / len(names))
    assert sorted(seen) == sorted(names), "some came again, because the group thought the app dead"


async def test_a_new_group_may_begin_later_and_an_old_one_does_not(settings: Settings) -> None:
    await complete(settings, "a", "b", "c")
    await asyncio.sleep(0.1)
    then = utc_now()
    await complete(settings, "d", "e", "f")
    async with Results(settings, group="late", since=then) as reading:
        assert sorted(await some(reading, 3)) == ["d", "e", "f"]
    await complete(settings, "g")
    async with Results(settings, group="late", since=utc_now()) as reading:
        assert await some(reading, 1) == ["g"]


async def test_two_of_a_group_share_the_images_and_none_is_left_out(settings: Settings) -> None:
    seen: set[str] = set()
    names = [f"image-{number}" for number in range(60)]

    async def read(reading: Results) -> None:
        async for image in reading:
            seen.add(image.image_id)
            await asyncio.sleep(0.01)

    async with Results(settings, group="app") as one:
        reading = [asyncio.create_task(read(one))]
        await complete(settings, *names[:30])
        async with Results(settings, group="app") as two:
            reading.append(asyncio.create_task(read(two)))
            await complete(settings, *names[30:])
            async with asyncio.timeout(60):
                while seen != set(names):  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0.05)
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


async def test_waiting_for_what_was_published(settings: Settings) -> None:
    async with Waiting(settings) as waiting:
        both = [asyncio.create_task(waiting.wait_for("b")) for _ in range(2)]
        await asyncio.sleep(0.1)
        await complete(settings, "a", "b")
        assert [image.image_id for image in await asyncio.gather(*both)] == ["b", "b"]
        assert (await waiting.wait_for("a")).image_id == "a", "it had come before"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting.wait_for("a", run="another"), 0.5)
        assert not waiting._waiting


async def test_those_that_nobody_waits_for_are_forgotten_in_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "REMEMBERED", 2)
    async with Waiting(settings) as waiting:
        await complete(settings, *(f"image-{number}" for number in range(7)), "last")
        await asyncio.wait_for(waiting.wait_for("last"), 30)
        async with asyncio.timeout(30):
            while len(waiting._came) != 2:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)


async def test_a_download_is_checked(settings: Settings) -> None:
    async with open_store(settings) as store:
        blob = await store.put_content("ply", b"ply\nand so on", "model/ply", ".ply")
    assert await download(settings, blob) == b"ply\nand so on"
    with pytest.raises(RecordFault) as fault:
        await download(settings, blob.model_copy(update={"sha256": "0" * 64}))
    assert fault.value.reason is Reason.BLOB_MISSING


@pytest.mark.parametrize("servers", [None, "127.0.0.1:9"])
async def test_without_a_broker_it_is_one_line(servers: str | None) -> None:
    nowhere = Settings(kafka=Kafka(bootstrap_servers=servers, request_timeout_ms=2000))
    with pytest.raises(UserError) as error:
        async with Results(nowhere):
            pass
    assert error.value.exit_code is Exit.BROKER
    assert "\n" not in str(error.value)
