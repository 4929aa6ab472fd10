"""What one host may hold, by a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from stream_worker.errors import Reason, RecordFault, TransientFault
from stream_worker.images import hosts
from stream_worker.images.hosts import PROBE_S, REST_S, STRIKES, UNPROVEN, Hosts


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def some(clock: Clock) -> Hosts:
    return Hosts(8, 4, wait_s=0.1, clock=clock)


def too_slow() -> TransientFault:
    return TransientFault(Reason.FETCH_TIMEOUT, "too slow")


async def ask(some: Hosts, host: str) -> float | None:
    """A request that is answered at once; the seconds that it was given."""
    async with some.asked(host) as briefly_s:
        return briefly_s


async def strike(some: Hosts, host: str, times: int = STRIKES) -> None:
    for _ in range(times):
        with pytest.raises(TransientFault, match="too slow"):
            async with some.asked(host):
                raise too_slow()


async def most_at_a_time(some: Hosts, host: str) -> int:
    inside = most = 0

    async def stay() -> None:
        nonlocal inside, most
        async with some.asked(host):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(stay() for _ in range(2 * 8)))
    return most


async def test_a_host_earns_room_by_answering(some: Hosts) -> None:
    held = [some.asked("new") for _ in range(UNPROVEN)]
    for one in held:
        await one.__aenter__()
    with pytest.raises(TransientFault, match="too many photos wait"):
        await ask(some, "new")
    for one in held:
        await one.__aexit__(None, None, None)
    assert await most_at_a_time(some, "new") == 4


async def test_all_hosts_together_have_a_bound_too(some: Hosts) -> None:
    inside = most = 0

    async def stay(name: str) -> None:
        nonlocal inside, most
        async with some.asked(name):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(stay(str(number)) for number in range(20)))
    assert most == 8


async def test_a_silent_host_is_left_alone_then_tried_briefly_by_one(some: Hosts, clock: Clock) -> None:
    await strike(some, "silent")
    for _ in range(10):
        await ask(some, "other")
    with pytest.raises(TransientFault, match="the host is silent: 2 requests") as fault:
        await ask(some, "silent")
    assert fault.value.reason is Reason.FETCH_TIMEOUT
    assert await ask(some, "other") is None
    clock.now = REST_S
    async with some.asked("silent") as briefly_s:
        assert briefly_s == PROBE_S
        with pytest.raises(TransientFault, match="silent"):
            await ask(some, "silent")
    assert await ask(some, "silent") is None, "it has answered"


async def test_a_probe_in_vain_is_another_rest(some: Hosts, clock: Clock) -> None:
    await strike(some, "silent")
    for _ in range(10):
        await ask(some, "other")
    clock.now = REST_S
    await strike(some, "silent", 1)
    clock.now = 2 * REST_S - 1
    with pytest.raises(TransientFault, match="silent: 3 requests"):
        await ask(some, "silent")
    clock.now = 2 * REST_S
    assert await ask(some, "silent") == PROBE_S


async def test_the_host_that_most_photos_come_from_is_waited_for(some: Hosts) -> None:
    for _ in range(100):
        await ask(some, "main")
    await ask(some, "other")
    await strike(some, "main", 10)
    await ask(some, "other")
    assert await ask(some, "main") is None


async def test_a_host_that_many_photos_are_wanted_from_is_refused_only_while_more_come_from_others(some: Hosts) -> None:
    await strike(some, "silent")
    for _ in range(5):
        await ask(some, "other")
    for _ in range(5 - STRIKES - 1):
        with pytest.raises(TransientFault, match="silent"):
            await ask(some, "silent")
    assert await ask(some, "silent") is None


async def test_a_refusal_is_an_answer(some: Hosts) -> None:
    for _ in range(5):
        await ask(some, "other")
        await strike(some, "one", STRIKES - 1)
        with pytest.raises(RecordFault, match="404"):
            async with some.asked("one"):
                raise RecordFault(Reason.FETCH_FAILED, "404")
    assert await ask(some, "one") is None


async def test_who_waits_when_a_host_turns_out_silent_hears_of_it_at_once(clock: Clock) -> None:
    some = Hosts(8, 4, wait_s=3600, clock=clock)
    for _ in range(10):
        await ask(some, "other")
    over = asyncio.Event()

    async def stuck() -> None:
        async with some.asked("silent"):
            await over.wait()
            raise too_slow()

    asking = [asyncio.create_task(stuck()) for _ in range(UNPROVEN)]
    waiting = [asyncio.create_task(ask(some, "silent")) for _ in range(3)]
    await asyncio.sleep(0.01)
    for _ in range(10):
        await ask(some, "other")
    over.set()
    outcomes = await asyncio.wait_for(asyncio.gather(*asking, *waiting, return_exceptions=True), 5)
    assert all(isinstance(one, TransientFault) for one in outcomes)
    assert sum("silent" in str(one) for one in outcomes) == 3


async def test_those_who_are_cancelled_leave_nothing_behind(some: Hosts) -> None:
    async def stay() -> None:
        async with some.asked("slow"):
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(stay()) for _ in range(6)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    (host,) = some._hosts.values()
    assert (host.inside, host.waiting, some._inside, host.strikes) == (0, 0, 0, 0)


async def test_no_more_hosts_are_remembered_than_there_is_reason_to(
    some: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "REMEMBERED", 3)
    async with some.asked("busy"):
        for number in range(20):
            await ask(some, str(number))
        assert set(some._hosts) == {"busy", "18", "19"}
