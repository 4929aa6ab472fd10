"""A TCP proxy between Kafka's clients and one broker, which can delay, drop, reset, slice, and hold single requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Self

from stream_worker.local_kafka.ports import HOST, free_port
from tests.servers.kafka_cluster import KafkaCluster

END_TXN = 26
TXN_OFFSET_COMMIT = 28
ANSWER_S = 30.0


class Way(Enum):
    """A direction of a connection."""

    TO_BROKER = "to broker"
    TO_CLIENT = "to client"


class Held:
    """A request that was taken out of the stream on its way to the broker; its connection waits behind it."""

    def __init__(self, api_key: int, number: int) -> None:
        self._api_key = api_key
        self._left = number
        self._connection: Connection | None = None
        self._caught = asyncio.Event()
        self._released = asyncio.Event()
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.correlation = -1

    async def caught(self, within_s: float) -> None:
        """Return when the request is here, and so not at the broker."""
        await asyncio.wait_for(self._caught.wait(), within_s)

    @property
    def here(self) -> bool:
        """Whether the request was caught."""
        return self._caught.is_set()

    def lose_client(self) -> None:
        """Reset the client's side of the connection: it must think that its request may be lost."""
        assert self._connection is not None
        self._connection.reset_client()

    async def release(self) -> bytes:
        """Let the request go on to the broker, whatever became of its client; what the broker answers to it."""
        self._released.set()
        return await asyncio.wait_for(asyncio.shield(self._answer), ANSWER_S)

    # ------------------------------------------------------------------ what the connection does

    def wants(self, api_key: int) -> bool:
        """Whether this is the request to be held: the n-th of its kind since `hold`."""
        if api_key != self._api_key or self._left <= 0:
            return False
        self._left -= 1
        return self._left == 0

    async def keep(self, connection: Connection, correlation: int) -> None:
        """Return when the request may go on."""
        self._connection, self.correlation = connection, correlation
        self._caught.set()
        await self._released.wait()

    def answered(self, body: bytes) -> None:
        """The broker has answered."""
        if not self._answer.done():
            self._answer.set_result(body)

    async def done(self) -> None:
        """Return when the broker has answered."""
        await asyncio.wait({self._answer}, timeout=ANSWER_S)


class Proxy:
    """One port before one broker. A fault hits the connections that there are and all new ones, until `heal`."""

    def __init__(self, target: int, port: int | None = None) -> None:
        self.target = target
        self.port = port or free_port(but=target)
        self.delay_s = 0.0
        self.slice_bytes = 0
        self.silent: frozenset[Way] = frozenset()
        self.resetting = False
        self.hit = 0
        self.requests: Counter[int] = Counter()
        self._holds: list[Held] = []
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], Connection] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ the faults

    def delay(self, seconds: float) -> None:
        """Every request and every answer comes this much later."""
        self.delay_s = seconds

    def slice(self, size: int) -> None:
        """Bytes are passed on in pieces of this size."""
        self.slice_bytes = size

    def drop(self) -> None:
        """Bytes vanish in both directions, without a word to anybody: a black hole."""
        self.silent = frozenset(Way)

    def half_open(self) -> None:
        """Requests arrive and take effect, answers vanish; the connection looks open from both ends."""
        self.silent = frozenset({Way.TO_CLIENT})

    def reset(self) -> None:
        """RST to both ends of every connection now, and of every new one at its first request."""
        self.resetting = True
        for connection in list(self._connections.values()):
            self.hit += 1
            connection.reset()

    def heal(self) -> None:
        """Faults end. A connection that lost bytes stays silent for ever: its ends must find out by themselves."""
        self.delay_s, self.slice_bytes, self.silent, self.resetting = 0.0, 0, frozenset(), False

    def hold(self, api_key: int, number: int = 1) -> Held:
        """Hold the n-th request of this kind from now on."""
        self._holds.append(Held(api_key, number))
        return self._holds[-1]

    def let_pass(self) -> None:
        """Hold no further request. Those that are held stay so until their release."""
        self._holds.clear()

    def holder(self, api_key: int) -> Held | None:
        """Who wants to hold this request, which is counted by all that wait for one of its kind."""
        wanting = [held for held in self._holds if held.wants(api_key)]
        return wanting[0] if wanting else None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(self, reader, writer)
        self._connections[task] = connection
        try:
            await connection.run()
        except (OSError, asyncio.CancelledError):
            pass  # the broker is away, or the proxy ends
        finally:
            del self._connections[task]


class Connection:
    """A client's connection, and ours to the broker for it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = writer
        self._requests = reader
        self._broker: asyncio.StreamWriter | None = None
        self._silent: set[Way] = set()
        self._held: Held | None = None

    async def run(self) -> None:
        """Pass frames both ways until one end is gone."""
        try:
            answers, self._broker = await asyncio.open_connection(HOST, self._proxy.target)
            there = asyncio.create_task(self._pass_requests(self._broker))
            back = asyncio.create_task(self._pass_answers(answers))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (there, back):
                    task.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        finally:
            self._client.transport.abort()
            if self._broker is not None:
                self._broker.transport.abort()

    def reset(self) -> None:
        """RST to both ends."""
        self.reset_client()
        if self._broker is not None:
            _reset(self._broker)

    def reset_client(self) -> None:
        """RST to the client's end."""
        _reset(self._client)

    async def _pass_requests(self, broker: asyncio.StreamWriter) -> None:
        async for frame in _frames(self._requests):
            api_key, _version, correlation = struct.unpack_from(">hhi", frame, 4)
            self._proxy.requests[api_key] += 1
            if self._proxy.resetting:
                self._proxy.hit += 1
                self.reset()
                return
            if held := self._proxy.holder(api_key):
                self._held = held
                await held.keep(self, correlation)
            await self._pass(frame, broker, Way.TO_BROKER)
        if self._held is not None:  # the client has gone; its request has not
            await self._held.done()

    async def _pass_answers(self, answers: asyncio.StreamReader) -> None:
        async for frame in _frames(answers):
            (correlation,) = struct.unpack_from(">i", frame, 4)
            if self._held is not None and correlation == self._held.correlation:
                self._held.answered(frame[8:])
            if not self._client.is_closing():
                with contextlib.suppress(OSError):
                    await self._pass(frame, self._client, Way.TO_CLIENT)

    async def _pass(self, frame: bytes, to: asyncio.StreamWriter, way: Way) -> None:
        proxy = self._proxy
        if proxy.delay_s:
            proxy.hit += 1
            await asyncio.sleep(proxy.delay_s)
        self._silent |= proxy.silent
        if way in self._silent:
            proxy.hit += 1
            return
        size = proxy.slice_bytes or len(frame)
        if size < len(frame):
            proxy.hit += 1
        for start in range(0, len(frame), size):
            to.write(frame[start : start + size])
            await to.drain()
            if size < len(frame):
                await asyncio.sleep(0)  # the other end may read what it has


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Kafka's requests or answers: four bytes of length, then as many."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            size = await reader.readexactly(4)
            yield size + await reader.readexactly(*struct.unpack(">i", size))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    if not writer.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def before(cluster: KafkaCluster) -> AsyncIterator[list[Proxy]]:
    """A proxy before every node, in the nodes' order. Call it before the cluster's start: nodes advertise the proxies.

    Again before a cluster that runs, the proxies listen where the former ones did.
    """
    async with contextlib.AsyncExitStack() as stack:
        proxies = []
        for node in cluster.nodes:
            proxies.append(await stack.enter_async_context(Proxy(node.port, node.advertised_port)))
            node.advertise(proxies[-1].port)
        yield proxies
