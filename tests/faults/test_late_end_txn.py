"""A request of a transaction that arrives when the next one is open (KAFKA-17754): it must change nothing.

The proxy takes the request out of the stream; the client gives up on it and asks again on another connection, which
works. In the middle of the next transaction the first request reaches the broker after all. aiokafka's requests are of
the old transaction protocol, where only the producer's epoch tells the two transactions apart.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass

import pytest

from stream_worker import lane, topics
from stream_worker.settings import Settings
from stream_worker.transaction import TransactionalProducer
from tests.faults.copying import at_the_end, committed, require_once_each
from tests.integration.test_stage import Echo, read, send
from tests.servers.proxy import END_TXN, TXN_OFFSET_COMMIT, Proxy
from tests.staging import running

WAIT_S = 60.0
INVALID_PRODUCER_EPOCH = 47
PHOTOS = [b"photo-0", b"photo-1", b"photo-2"]

either_way = pytest.mark.parametrize("reset", [False, True], ids=["timed-out", "connection-lost"])


class Unguarded(TransactionalProducer):
    """The runner's producer without its guard: it is used on, whatever became of its requests."""

    def _doubtful(self) -> bool:
        return False


@dataclass
class Late:
    """The schedule: request `late` of photo-1's transaction reaches the broker in photo-2's, before its request `at`.

    At the end another owner takes over: it does again what is not committed.
    """

    proxy: Proxy
    settings: Settings

    async def arrives(self, late: int, at: int, *, reset: bool) -> int:
        """The broker's answer to the late request, an error code.

        `reset`: the client hears that its connection broke; otherwise it waits in vain until its time is over.
        """
        async with running(Echo(), self.settings) as stage:
            await send(self.settings, PHOTOS[:1])
            await read(self.settings, topics.COMPLETED, 1, WAIT_S)
            first = self.proxy.hold(late)
            await send(self.settings, PHOTOS[1:2])
            await first.caught(WAIT_S)
            if reset:
                first.lose_client()
            await read(self.settings, topics.COMPLETED, 2, WAIT_S)  # the client has asked again
            second = self.proxy.hold(at)
            await send(self.settings, PHOTOS[2:])
            await second.caught(WAIT_S)
            code = _error(late, await first.release())
            await second.release()
            await read(self.settings, topics.COMPLETED, 3, WAIT_S)
            stage._stuck = True  # it dies: an owner that says goodbye commits its place once more, which would mend it
        async with running(Echo(), self.settings):
            await at_the_end(self.settings)
        return code


def _error(api_key: int, answer: bytes) -> int:
    """Of an EndTxn it follows the throttle time; of a TxnOffsetCommit with one partition it ends the answer."""
    code: int = struct.unpack(">h", answer[4:6] if api_key == END_TXN else answer[-2:])[0]
    return code


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "TransactionalProducer", Unguarded)


@pytest.fixture
def settings(proxied: Settings) -> Settings:
    return proxied


async def copies(settings: Settings) -> Counter[bytes | None]:
    return Counter(record.value for record in await committed(settings, topics.COMPLETED))


@either_way
async def test_a_late_end_does_not_end_the_next_transaction(proxy: Proxy, settings: Settings, reset: bool) -> None:
    code = await Late(proxy, settings).arrives(END_TXN, TXN_OFFSET_COMMIT, reset=reset)
    assert code == INVALID_PRODUCER_EPOCH
    await require_once_each(settings, PHOTOS)


@either_way
@pytest.mark.usefixtures("unguarded")
async def test_without_the_guard_a_late_end_commits_half_a_transaction(
    proxy: Proxy, settings: Settings, reset: bool
) -> None:
    """The output is committed, its offset is not, and so the work is done again: on this broker, with this client."""
    code = await Late(proxy, settings).arrives(END_TXN, TXN_OFFSET_COMMIT, reset=reset)
    assert code == 0
    assert await copies(settings) == {b"photo-0": 1, b"photo-1": 1, b"photo-2": 2}


async def test_late_offsets_do_not_take_the_group_back(proxy: Proxy, settings: Settings) -> None:
    code = await Late(proxy, settings).arrives(TXN_OFFSET_COMMIT, END_TXN, reset=True)
    assert code == INVALID_PRODUCER_EPOCH
    await require_once_each(settings, PHOTOS)


@pytest.mark.usefixtures("unguarded")
async def test_without_the_guard_late_offsets_take_the_group_back(proxy: Proxy, settings: Settings) -> None:
    """photo-2 is committed and the group stands before it: its next owner does it again."""
    code = await Late(proxy, settings).arrives(TXN_OFFSET_COMMIT, END_TXN, reset=True)
    assert code == 0
    assert await copies(settings) == {b"photo-0": 1, b"photo-1": 1, b"photo-2": 2}


async def test_ends_that_arrive_when_their_work_is_being_done_again(proxy: Proxy, settings: Settings) -> None:
    """No end gets through until the transaction's time is over: the lane has started over when they all arrive."""
    async with running(Echo(), settings):
        await send(settings, PHOTOS[:1])
        await read(settings, topics.COMPLETED, 1, WAIT_S)
        ends = [proxy.hold(END_TXN, number) for number in range(1, 20)]  # the first, and what aiokafka repeats
        await send(settings, PHOTOS[1:2])
        await ends[0].caught(WAIT_S)
        again = proxy.hold(TXN_OFFSET_COMMIT)
        await again.caught(WAIT_S)
        proxy.let_pass()
        codes = [_error(END_TXN, await end.release()) for end in ends if end.here]
        await again.release()
        await read(settings, topics.COMPLETED, 2, WAIT_S)
    assert set(codes) == {INVALID_PRODUCER_EPOCH}
    await require_once_each(settings, PHOTOS[:2])
