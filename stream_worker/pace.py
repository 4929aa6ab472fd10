"""When the service has time for one more photo that may wait: live ones must not wait behind it.

Kafka has no priorities, and what lies in a partition is done in its order. So what is not urgent is not sent before
there is time for it: while a photo waits for a free detector, or more than one object a reconstructor, nothing is sent.
A live photo then waits for what is in work, and for one that may wait at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stream_worker import telemetry, topics
from stream_worker.closing import close_within
from stream_worker.lag import committed, count, members, objects
from stream_worker.security import client
from stream_worker.settings import Kafka

LOOK_S = 0.1
COUNT_S = 1.0
FETCH_MS = 20
STOP_S = 5.0
COUNTED = 100
"""Records of a partition that are counted one by one; of more, it is known that they are many."""

log = telemetry.get(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may wait for a group when another one is sent: less than `spare` and one for each of its workers."""

    group: str
    topic: str
    spare: int


FOR_OBJECTS = (Limit("reconstructor", topics.OBJECTS, 1),)
FOR_PHOTOS = (Limit("detector", topics.IMAGES, 0), *FOR_OBJECTS)


class Pace:
    """Looks at what the groups have to do: a context manager, connected within it."""

    def __init__(self, kafka: Kafka, limits: Sequence[Limit]) -> None:
        self._kafka = kafka
        self._limits = limits
        self._stack = AsyncExitStack()
        self._admin: AIOKafkaAdminClient
        self._consumer: AIOKafkaConsumer
        self._partitions: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        """Connect. Raises UserError where there is no broker."""
        async with AsyncExitStack() as stack:
            self._partitions = await topics.counts(self._kafka)
            self._admin = await stack.enter_async_context(topics.admin(self._kafka))
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._kafka.bootstrap_servers,
                **client(self._kafka),
                isolation_level="read_committed",
                fetch_max_wait_ms=FETCH_MS,  # no answer comes behind a fetch that waits for records
            )
            # Not as a context: its `stop` may raise CancelledError after its partitions have changed (aiokafka).
            stack.push_async_callback(lambda: close_within(STOP_S, self._consumer.stop()))
            await self._consumer.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._stack.aclose()

    async def room(self) -> None:
        """Return when there is time for another one. While nobody works, there is none."""
        while True:
            if await self._free():
                return
            await asyncio.sleep(LOOK_S)  # no broker tells by itself what is left

    async def _free(self) -> bool:
        try:
            async with asyncio.timeout(self._kafka.request_timeout_ms / 1000):
                return all([await self._below(limit) for limit in self._limits])
        except (KafkaError, TimeoutError, OSError) as error:
            log.debug("what waits could not be measured", error=repr(error))
            return False

    async def _below(self, limit: Limit) -> bool:
        kafka, group = self._kafka, self._kafka.prefix + limit.group
        workers = await members(self._admin, group)
        if workers == 0:
            return False
        sources = [TopicPartition(kafka.prefix + limit.topic, one) for one in range(self._partitions[limit.topic])]
        done = await committed(self._admin, self._consumer, group, sources)
        ends = await self._consumer.end_offsets(sources)
        if limit.topic == topics.OBJECTS:
            waiting = sum(objects(ends[source] - done[source]) for source in sources)
        else:  # photos may come with markers or without
            waiting = await count(self._consumer, done, ends, COUNTED, COUNT_S)
        return waiting < workers + limit.spare
