"""Photos that go to a model together, in real children that crash on one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from stream_worker.errors import OutageError, Reason, RecordFault, TransientFault
from stream_worker.models.batches import WARY, Batches
from stream_worker.models.host import ModelHost

ROOT = Path(__file__).parents[2]
SIZE = 4

MakeBatches = Callable[..., Batches]


@pytest.fixture
async def make_batches() -> AsyncIterator[MakeBatches]:
    """Ways to staged models; none of their processes outlives the test."""
    hosts: list[ModelHost] = []

    def make(wait_s: float = 0.0, model: str = "Together", **settings: Any) -> Batches:
        host = ModelHost(
            name="staged",
            model=f"tests.integration.staged_models:{model}",
            options={"batch": SIZE},
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            load_timeout_s=60.0,
            fault_reason=Reason.DETECT_FAILED,
            **settings,
        )
        hosts.append(host)
        return Batches(host, wait_s)

    yield make
    for host in hosts:
        await host.stop()


async def each(batches: Batches, *photos: dict[str, Any]) -> list[Any]:
    """What comes of photos that are asked for at the same time."""
    return await asyncio.gather(*(batches.infer(photo) for photo in photos), return_exceptions=True)


def said(*numbers: int) -> list[dict[str, Any]]:
    return [{"say": number} for number in numbers]


async def test_what_waits_goes_together_and_each_hears_of_its_own(make_batches: MakeBatches) -> None:
    batches = make_batches()
    async with batches.host, batches:
        first = asyncio.create_task(batches.infer({"say": 0, "sleep": 0.5}))
        await asyncio.sleep(0.2)
        answers = await each(batches, *said(*range(1, 10)))
        assert await first == {"said": 0, "with": 1}
    assert [answer["said"] for answer in answers] == list(range(1, 10))
    assert [answer["with"] for answer in answers] == [SIZE] * 8 + [1]


async def test_a_lone_photo_waits_no_longer_than_it_should_for_company(make_batches: MakeBatches) -> None:
    batches = make_batches(wait_s=0.4)
    async with batches.host, batches:
        first = asyncio.create_task(batches.infer({"say": 1}))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(batches.infer({"say": 2}))
        assert [(await one)["with"] for one in (first, second)] == [2, 2]
        patient = make_batches(wait_s=3600)
        async with patient.host, patient:
            assert await each(patient, *said(*range(SIZE))) == [{"said": n, "with": SIZE} for n in range(SIZE)]


async def test_a_fault_of_one_photo_is_that_photos_alone(make_batches: MakeBatches) -> None:
    batches = make_batches(wait_s=1.0)
    async with batches.host, batches:
        good, bad, broken, last = await each(
            batches, {"say": 1}, {"fault": "nothing there"}, {"answer": "no dict"}, {"say": 4}
        )
    assert (good, last) == ({"said": 1, "with": 4}, {"said": 4, "with": 4})
    assert isinstance(bad, RecordFault)
    assert (bad.reason, bad.message) == (Reason.EMPTY_MASK, "nothing there")
    assert isinstance(broken, RecordFault)
    assert broken.reason is Reason.DETECT_FAILED


@pytest.mark.parametrize(
    ("culprit", "kind", "reason"),
    [
        ({"kill": True}, TransientFault, Reason.MODEL_CRASHED),
        ({"say": 0, "sleep": 60}, TransientFault, Reason.MODEL_TIMEOUT),
        ({"refuse": True}, RecordFault, Reason.DETECT_FAILED),
        ({"nonsense": True}, RecordFault, Reason.DETECT_FAILED),
    ],
)
async def test_whoever_spoils_a_batch_is_found_and_its_mates_lose_nothing(
    make_batches: MakeBatches, culprit: dict[str, Any], kind: type[RecordFault], reason: Reason
) -> None:
    batches = make_batches(wait_s=1.0, task_timeout_s=2.0)
    async with batches.host, batches:
        one, bad, two, three = await each(batches, {"say": 1}, culprit, {"say": 2}, {"say": 3})
        assert [one, two, three] == [{"said": n, "with": 1} for n in (1, 2, 3)]
        assert type(bad) is kind
        assert bad.reason is reason
        # Who is tried again soon is alone; and once that is over, photos go together as before.
        after = await each(batches, *said(*range(WARY * SIZE)))
        assert {answer["said"] for answer in after} == set(range(WARY * SIZE))
        assert await each(batches, *said(1, 2, 3, 4)) == [{"said": n, "with": SIZE} for n in (1, 2, 3, 4)]


async def test_who_gives_up_waiting_is_left_out(make_batches: MakeBatches) -> None:
    batches = make_batches()
    async with batches.host, batches:
        first = asyncio.create_task(batches.infer({"say": 0, "sleep": 0.5}))
        await asyncio.sleep(0.2)
        gone = asyncio.create_task(batches.infer({"kill": True}))
        stays = asyncio.create_task(batches.infer({"say": 1}))
        await asyncio.sleep(0.1)
        gone.cancel()
        assert [(await one)["said"] for one in (first, stays)] == [0, 1]
        assert batches.host.counters.crashes == 0


async def test_a_model_that_can_not_be_started_is_an_outage_for_all_who_wait(make_batches: MakeBatches) -> None:
    batches = make_batches()
    async with batches.host, batches:
        batches.host.python = "/no/such/python"
        killed = await each(batches, {"kill": True})
        assert isinstance(killed[0], TransientFault)
        for outcome in await each(batches, *said(1, 2)):
            assert isinstance(outcome, OutageError)


async def test_a_model_that_takes_one_photo_at_a_time_gets_it_as_it_is(make_batches: MakeBatches) -> None:
    batches = make_batches(model="Echo")
    async with batches.host, batches:
        assert await each(batches, {"echo": 1}, {"echo": 2}) == [{"echo": 1}, {"echo": 2}]
