"""Which of the bootstrap servers to begin with: one that answers.

aiokafka tries them one after the other, in random order, and waits a whole request timeout for one that has stopped
without closing its port (a frozen process, a host in swap). A worker starts about a dozen clients: with one of three
brokers frozen, few starts would come through at all.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaError

from stream_worker.closing import end
from stream_worker.security import client, renewed
from stream_worker.settings import Kafka

DEFAULT = "localhost"


async def entry(kafka: Kafka) -> dict[str, Any]:
    """What a client is made with: a server that answers, and how to get in. Raises UserError, as `security.client`."""
    return await _entry(kafka, client(kafka))


async def entry_again(kafka: Kafka) -> dict[str, Any]:
    """The same for a worker that runs. Raises OutageError, as `security.renewed`."""
    return await _entry(kafka, renewed(kafka))


async def _entry(kafka: Kafka, security: dict[str, Any]) -> dict[str, Any]:
    server = await answering(kafka.bootstrap_servers, kafka.request_timeout_ms, **security)
    return {"bootstrap_servers": server, **security}


async def answering(bootstrap_servers: str | None, request_timeout_ms: int, **security: Any) -> str:
    """The server of the list (`host:port,host:port`) that answers first; the list itself where none does.

    All are asked at the same time; a list of one is not asked at all. None stands for aiokafka's default. `security`:
    how to get in. Raises nothing: whoever gets the list back hears from its client what is wrong with it.
    """
    bootstrap_servers = bootstrap_servers or DEFAULT
    servers = [server for server in bootstrap_servers.split(",") if server.strip()]
    if len(servers) < 2:
        return bootstrap_servers
    asked = [
        asyncio.create_task(_ask(server, request_timeout_ms, security), name=f"ask {server}") for server in servers
    ]
    try:
        async with asyncio.timeout(request_timeout_ms / 1000):
            for answer in asyncio.as_completed(asked):
                if (server := await answer) is not None:
                    return server
    except TimeoutError:
        pass
    finally:
        await asyncio.gather(*(end(task) for task in asked))
    return bootstrap_servers


async def _ask(server: str, request_timeout_ms: int, security: dict[str, Any]) -> str | None:
    """The server, once it has said which protocol versions it speaks; None where it refuses."""
    with suppress(KafkaError, OSError, ValueError):
        ((host, port, _),) = collect_hosts(server)
        connection = await create_conn(host, port, request_timeout_ms=request_timeout_ms, **security)
        connection.close()
        return server
    return None
