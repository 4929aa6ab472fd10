"""When the service has time for one more image of a replay: live images must not wait behind it.

Kafka has no priorities, and what lies in a partition is done in its order. So what is not urgent is not sent before
there is time for it: while a photo waits, or more than one object a reconstructor, a replay sends nothing. A live image
then waits for what is in work, and for one image of the replay at most.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from stream_worker import telemetry, topics
from stream_worker.lag import committed, count, members
from stream_worker.replay.selection import Source
from stream_worker.settings import Kafka

LOOK_S = 0.2
COUNT_S = 1.0
COUNTED = 100
"""Records of a partition that are counted one by one; of more, it is known that they are many."""

log = telemetry.get(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """How much may wait for a group when another image is sent: less than `spare` and one for each of its workers."""

    group: str
    topic: str
    spare: int


LIMITS = {
    Source.IMAGES: (Limit("detector", topics.IMAGES, 0), Limit("reconstructor", topics.OBJECTS, 1)),
    Source.OBJECTS: (Limit("reconstructor", topics.OBJECTS, 1),),
}


class Pace:
    """Looks at what the groups of a source have to do: a context manager, connected within it."""

    def __init__(self, kafka: Kafka, source: Source) -> None:
        self._kafka = kafka
        self._limits = LIMITS[source]
        self._stack = AsyncExitStack()
        self._admin: AIOKafkaAdminClient
        self._consumer: AIOKafkaConsumer
        self._partitions: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        """Connect. Raises UserError where there is no broker."""
        async with AsyncExitStack() as stack:
            self._partitions = await topics.counts(self._kafka)
            self._admin = await stack.enter_async_context(topics.admin(self._kafka))
            self._consumer = await stack.enter_async_context(
                AIOKafkaConsumer(bootstrap_servers=self._kafka.bootstrap_servers, isolation_level="read_committed")
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._stack.aclose()

    async def room(self) -> None:
        """Return when there is time for another image. While nobody works, there is none."""
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
        return await count(self._consumer, done, ends, COUNTED, COUNT_S) < workers + limit.spare
