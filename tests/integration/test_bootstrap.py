"""A server of the list that stands still, or is gone, keeps nobody from the others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from stream_worker import topics
from stream_worker.bootstrap import answering
from stream_worker.errors import Exit, UserError
from stream_worker.local_kafka.ports import HOST, free_port
from stream_worker.settings import Kafka

FOR_EVER_MS = 300_000
WITHIN_S = 20.0


@pytest.fixture
def frozen() -> Iterator[str]:
    """A port as a process that was stopped leaves it: the kernel takes connections, and nobody ever answers."""
    with socket.create_server((HOST, 0)) as listening:
        yield f"{HOST}:{listening.getsockname()[1]}"


@pytest.mark.parametrize("turn", [0, 1, 2])
async def test_the_one_that_answers_is_found(kafka: str, frozen: str, turn: int) -> None:
    servers = [frozen, f"{HOST}:{free_port()}", kafka]
    async with asyncio.timeout(WITHIN_S):
        assert await answering(",".join(servers[turn:] + servers[:turn]), FOR_EVER_MS) == kafka


async def test_a_client_starts_beside_one_that_stands_still(kafka: str, frozen: str) -> None:
    """Several times, as a client tries the servers in random order."""
    async with asyncio.timeout(WITHIN_S):
        for _ in range(5):
            async with topics.admin(Kafka(bootstrap_servers=f"{frozen},{kafka}", request_timeout_ms=FOR_EVER_MS)):
                pass


async def test_where_none_answers_the_client_says_so(frozen: str) -> None:
    servers = f"{frozen},{HOST}:{free_port()}"
    assert await answering(servers, 1_000) == servers
    with pytest.raises(UserError, match=servers) as told:
        async with topics.admin(Kafka(bootstrap_servers=servers, request_timeout_ms=1_000)):
            pass
    assert told.value.exit_code == Exit.BROKER
