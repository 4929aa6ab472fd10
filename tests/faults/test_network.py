"""The network between the service and its broker fails in the middle of the work, and heals: every record once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stream_worker import topics
from stream_worker.settings import Settings
from tests.faults.copying import Copying, require_once_each
from tests.integration.test_stage import read, send, values_of
from tests.servers.proxy import Proxy
from tests.staging import running

COUNT = 90
WITHIN_S = 120.0

pytestmark = pytest.mark.timeout(240)


async def outlived(proxy: Proxy, settings: Settings, fault: Callable[[], None], seconds: float) -> None:
    """Let the fault hit unfinished work for so long; afterwards everything must be there once."""
    copying = Copying(COUNT)
    await send(settings, values_of(COUNT))
    async with running(copying, settings):
        await copying.half_way()
        fault()
        copying.go_on()
        await asyncio.sleep(seconds)
        assert proxy.hit > 0, "the fault met no traffic"
        proxy.heal()
        await read(settings, topics.COMPLETED, COUNT, WITHIN_S)
    await require_once_each(settings, values_of(COUNT))


async def test_a_slow_network_slows_the_work_down(proxy: Proxy, proxied: Settings) -> None:
    await outlived(proxy, proxied, lambda: proxy.delay(0.3), 6)


async def test_requests_that_arrive_after_their_client_gave_up(proxy: Proxy, proxied: Settings) -> None:
    await outlived(proxy, proxied, lambda: proxy.delay(proxied.kafka.request_timeout_ms / 1000 + 1), 12)


async def test_a_black_hole_longer_than_session_and_transaction(proxy: Proxy, proxied: Settings) -> None:
    await outlived(proxy, proxied, proxy.drop, 10)


async def test_connections_that_are_reset_again_and_again(proxy: Proxy, proxied: Settings) -> None:
    await outlived(proxy, proxied, proxy.reset, 5)


async def test_half_open_connections_that_take_requests_and_give_no_answer(proxy: Proxy, proxied: Settings) -> None:
    await outlived(proxy, proxied, proxy.half_open, 10)


async def test_bytes_that_come_in_small_pieces(proxy: Proxy, proxied: Settings) -> None:
    await outlived(proxy, proxied, lambda: proxy.slice(3), 5)
