"""Publishing photos from your own app: `Publisher` checks an event before it sends it, and waits for the broker.

async with Publisher(load()) as publisher:
    sent = await publisher.publish("https://example.com/sofa.jpg", image_id="sofa-1")

with SyncPublisher(load()) as publisher:  # the same for code without an event loop
    sent = publisher.publish("https://example.com/sofa.jpg", image_id="sofa-1")
"""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from stream_worker import topics
from stream_worker.bootstrap import entry
from stream_worker.closing import close_within
from stream_worker.contract import encode
from stream_worker.errors import Exit, RecordFault, UserError
from stream_worker.events import LIVE, ImageEvent, utc_now
from stream_worker.headers import TRACEPARENT, cloud_event
from stream_worker.settings import Settings

T = TypeVar("T")

AT_ONCE = 500
"""Photos on their way to the broker at a time, of many."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where an event lies, once the broker has it."""

    image_id: str
    run: str
    partition: int
    offset: int


_BITS = 16


class Spread:
    """Partitions in turn, any few in a row as far apart as can be.

    Each detector has partitions that lie beside each other: so a burst reaches as many detectors as it has photos,
    where by the keys' hashes two of four photos meet nine times out of ten. The order is that of the van der Corput
    sequence in base 2 (J. G. van der Corput, Verteilungsfunktionen, 1935), from a place of its own.
    """

    def __init__(self, start: int | None = None) -> None:
        self._number = random.randrange(2**_BITS) if start is None else start  # noqa: S311  # no secret depends on it

    def next(self, partitions: int) -> int:
        """One of so many, from 0."""
        turned = int(f"{self._number % 2**_BITS:0{_BITS}b}"[::-1], 2)
        self._number += 1
        return turned * partitions >> _BITS


class Publisher:
    """Publishes image events: validated, idempotent, acknowledged by all replicas, spread evenly over detectors.

    Needs only the base install, and `kafka.bootstrap_servers` in the settings. Safe to share among tasks of one
    event loop.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.kafka.bootstrap_servers is None:
            raise UserError("name the broker to publish to: kafka.bootstrap_servers", Exit.BROKER)
        self._kafka = settings.kafka
        self._producer: AIOKafkaProducer | None = None
        self._spread = Spread()

    async def __aenter__(self) -> Self:
        """Connect. Raises UserError where there is no broker, or no topic `images`."""
        await topics.require(self._kafka, topics.IMAGES)
        self._producer = AIOKafkaProducer(
            **await entry(self._kafka),
            enable_idempotence=True,
            request_timeout_ms=self._kafka.request_timeout_ms,
            max_request_size=self._kafka.max_event_bytes,
        )
        try:
            async with asyncio.timeout(2 * self._kafka.request_timeout_ms / 1000):
                await self._producer.start()
        except (KafkaError, TimeoutError) as error:
            await self.__aexit__(None, None, None)
            raise UserError(
                f"no Kafka broker answers at {self._kafka.bootstrap_servers}: {error}", Exit.BROKER
            ) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what waits, and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_within(self._kafka.request_timeout_ms / 1000, producer.stop())

    async def publish(
        self,
        url: str,
        *,
        image_id: str | None = None,
        run: str = LIVE,
        classes: Sequence[str] | None = None,
        deadline_s: float | None = None,
        recompute: bool = False,
        metadata: Mapping[str, Any] | None = None,
        traceparent: str | None = None,
    ) -> Published:
        """Publish one photo; returns when the broker has it.

        `image_id` names the photo in every result (a new UUID by default); publishing it again under the same
        `run` is the same work and gives no second result. `metadata` comes back in the completed event. `recompute`
        spends GPU time also where the result of the same work is found.

        Raises UserError, one line, where the event is not valid or the broker did not take it in time.
        """
        if self._producer is None:
            raise UserError("use the Publisher as a context: `async with Publisher(settings) as publisher`")
        try:
            event = ImageEvent(
                image_id=uuid.uuid4().hex if image_id is None else image_id,
                url=url,
                run=run,
                published_at=utc_now(),
                classes=None if classes is None else list(classes),
                deadline_s=deadline_s,
                recompute=recompute,
                metadata=None if metadata is None else dict(metadata),
            )
            value = encode(event)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(f"image event refused: {where}: {first['msg']}") from None
        except RecordFault as fault:
            raise UserError(f"image event refused: {fault.message}") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"image event refused: metadata is not JSON: {error}") from None
        trace = ((TRACEPARENT, traceparent.encode()),) if traceparent else ()
        topic = self._kafka.prefix + topics.IMAGES
        try:
            async with asyncio.timeout(self._kafka.request_timeout_ms / 1000):
                sent = await self._producer.send_and_wait(
                    topic,
                    value=value,
                    key=event.image_id.encode(),
                    partition=self._spread.next(len(await self._producer.partitions_for(topic))),
                    headers=list(cloud_event(event, "publisher", trace)),
                )
        except TimeoutError:
            raise UserError(f"the broker did not take {event.image_id!r} in time", Exit.BROKER) from None
        except KafkaError as error:
            raise UserError(f"the broker refused {event.image_id!r}: {error}", Exit.BROKER) from None
        return Published(event.image_id, event.run, sent.partition, sent.offset)

    async def publish_many(self, photos: Iterable[Mapping[str, Any]]) -> AsyncIterator[Published]:
        """Publish photos, each the keyword arguments of `publish` with its `url`; yields them in their order.

        Many are on their way at a time. Raises as `publish`, at the first that fails: those behind it may have been
        published or not.
        """
        sending: deque[asyncio.Task[Published]] = deque()
        try:
            for photo in photos:
                sending.append(asyncio.create_task(self.publish(**photo)))
                if len(sending) >= AT_ONCE:
                    yield await sending.popleft()
            while sending:
                yield await sending.popleft()
        finally:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)


class SyncPublisher:
    """`Publisher` for code without an event loop: its own runs in a thread. Safe to share among threads."""

    def __init__(self, settings: Settings) -> None:
        self._publisher = Publisher(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="publisher", daemon=True)

    def __enter__(self) -> Self:
        """Connect. Raises as the Publisher does."""
        self._thread.start()
        try:
            self._do(self._publisher.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what waits, and disconnect."""
        try:
            self._do(self._publisher.__aexit__(kind, error, trace))
        finally:
            self._end()

    def publish(self, url: str, **options: Any) -> Published:
        """As `Publisher.publish`, with the same options; returns when the broker has the photo."""
        return self._do(self._publisher.publish(url, **options))

    def publish_many(self, photos: Iterable[Mapping[str, Any]]) -> list[Published]:
        """As `Publisher.publish_many`; returns when the broker has all of them."""

        async def all_of_them() -> list[Published]:
            return [sent async for sent in self._publisher.publish_many(photos)]

        return self._do(all_of_them())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise UserError("use the SyncPublisher as a context: `with SyncPublisher(settings) as publisher`")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
