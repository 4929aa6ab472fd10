"""The roads: which topics there are, how they are laid out, and whether a broker has them as we need them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError, for_code

from stream_worker.bootstrap import entry
from stream_worker.closing import close_within
from stream_worker.errors import Exit, UserError
from stream_worker.security.refusals import why
from stream_worker.settings import Kafka

IMAGES = "images"
OBJECTS = "objects"
DETECTIONS = "detections"
RECONSTRUCTIONS = "reconstructions"
COMPLETED = "completed-images"
CHANGELOG = "join-changelog"
DEAD_LETTERS = "dead-letters"

DAY_MS = 24 * 3600 * 1000
STOP_S = 5.0
SPREAD_S = 3.0
"""Until all brokers of a cluster know a new topic, at most."""
HEADROOM_BYTES = 64 * 1024
"""A dead letter is the record as it came, at most `max_event_bytes`, and the headers that say why."""


@dataclass(frozen=True, slots=True)
class Topic:
    """How one topic is laid out. `partitions` of None: as many as the settings say."""

    name: str
    purpose: str
    partitions: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)


def _kept(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * DAY_MS)}


TOPICS: tuple[Topic, ...] = (
    # The broker's clock stamps them: a publisher whose clock is wrong must not shorten a deadline.
    Topic(IMAGES, "photos to process", config={**_kept(7), "message.timestamp.type": "LogAppendTime"}),
    Topic(OBJECTS, "one mask each: the work of the reconstructors", config=_kept(7)),
    Topic(DETECTIONS, "the manifest of a photo: its objects, or why it failed", config=_kept(7)),
    Topic(RECONSTRUCTIONS, "one object's result or failure", config=_kept(7)),
    Topic(
        COMPLETED,
        "the joined outcome of a photo",
        # Compacted, but not before 30 days: runs can be compared meanwhile, and the newest outcome stays.
        config={"cleanup.policy": "compact", "min.compaction.lag.ms": str(30 * DAY_MS)},
    ),
    Topic(
        CHANGELOG,
        "the aggregators' state",
        # Only closed segments are compacted, and a restore reads all there is: with Kafka's defaults up to a gigabyte,
        # or seven days, of what is long outdated.
        config={
            "cleanup.policy": "compact",
            "segment.bytes": str(4 * 2**20),
            "segment.ms": str(10 * 60 * 1000),
            "min.cleanable.dirty.ratio": "0.3",
        },
    ),
    Topic(DEAD_LETTERS, "records that no retry can mend, byte for byte", partitions=3, config=_kept(30)),
)

COPARTITIONED = (DETECTIONS, RECONSTRUCTIONS, CHANGELOG)
"""The aggregator reads and writes these by the same partition number: they must have equally many."""


def partitions_of(topic: Topic, kafka: Kafka) -> int:
    """How many partitions the topic gets when we create it."""
    return topic.partitions or kafka.partitions


def config_of(topic: Topic, kafka: Kafka) -> dict[str, str]:
    """The settings that the topic gets when we create it."""
    return {**topic.config, "max.message.bytes": str(kafka.max_event_bytes + HEADROOM_BYTES)}


@asynccontextmanager
async def admin(kafka: Kafka) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client. Raises UserError (exit code BROKER) where the broker can't be reached or does not let us in."""
    client = AIOKafkaAdminClient(**await entry(kafka), request_timeout_ms=kafka.request_timeout_ms)
    try:
        async with asyncio.timeout(kafka.request_timeout_ms / 1000):
            await client.start()
            if not client._client.cluster.brokers():
                # A token that was refused: aiokafka takes what follows for an answer, of a cluster without brokers.
                raise KafkaConnectionError("the answer names no broker")
    except (KafkaError, TimeoutError, OSError, ValueError) as error:
        await close_within(STOP_S, client.close())
        raise UserError(
            await why(kafka)
            or f"no Kafka broker answers at {kafka.bootstrap_servers} ({type(error).__name__}): start it, "
            "or name another with kafka.bootstrap_servers",
            Exit.BROKER,
        ) from None
    try:
        yield client
    finally:
        await close_within(STOP_S, client.close())


class Counts(dict[str, int]):
    """Partitions by the topic's logical name. `denied`: topics that we may not even ask for, there or not."""

    denied: frozenset[str] = frozenset()


async def present(client: AIOKafkaAdminClient, kafka: Kafka) -> Counts:
    """Partitions of each of our topics that the broker has, and lets us see, by logical name."""
    names = [kafka.prefix + topic.name for topic in TOPICS]
    found = await client.describe_topics(names)
    there = Counts(
        (described["topic"].removeprefix(kafka.prefix), len(described["partitions"]))
        for described in found
        if described["error_code"] == 0
    )
    denied = [
        described["topic"] for described in found if described["error_code"] == TopicAuthorizationFailedError.errno
    ]
    there.denied = frozenset(name.removeprefix(kafka.prefix) for name in denied)
    return there


async def counts(kafka: Kafka) -> Counts:
    """Partitions of each of our topics that there is, by logical name."""
    async with admin(kafka) as client:
        return await present(client, kafka)


async def create(kafka: Kafka) -> list[str]:
    """Create the topics that are missing; the names of those that were created."""
    async with admin(kafka) as client:
        there = await present(client, kafka)
        missing = [topic for topic in TOPICS if topic.name not in there]
        if not missing:
            return []
        answer = await client.create_topics(
            [
                NewTopic(
                    kafka.prefix + topic.name,
                    partitions_of(topic, kafka),
                    kafka.replication_factor,
                    topic_configs=config_of(topic, kafka),
                )
                for topic in missing
            ]
        )
        for name, code, *message in answer.topic_errors:
            if code not in (0, 36):  # 36: somebody else has just created it
                detail = message[0] if message and message[0] else for_code(code).__name__
                raise UserError(f"topic {name} can't be created: {detail}", Exit.TOPICS)
        await _visible(client, kafka)
        return [topic.name for topic in missing]


async def _visible(client: AIOKafkaAdminClient, kafka: Kafka) -> None:
    """A created topic is known to the controller at once, to the brokers that we ask a moment later."""
    try:
        async with asyncio.timeout(kafka.request_timeout_ms / 1000):
            while len(await present(client, kafka)) < len(TOPICS):  # noqa: ASYNC110  # Kafka has no event for it
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise UserError("the created topics did not appear in time: is the cluster well?", Exit.TOPICS) from None


async def problems(kafka: Kafka) -> list[str]:
    """What stands between these topics and a running service; one line each, none if all is well."""
    return problems_in(kafka, await counts(kafka))


def problems_in(kafka: Kafka, there: Counts, names: Sequence[str] | None = None) -> list[str]:
    """The same of topics that were counted. With `names`, that these are there is enough, as in `require`."""
    if names is not None:
        return _missing(kafka, there, names)
    lines = _missing(kafka, there, [topic.name for topic in TOPICS])
    lines += [
        f"topic {kafka.prefix}{topic.name} has {there[topic.name]} partitions, too few: "
        f"{partitions_of(topic, kafka)} are wanted (kafka.partitions)"
        for topic in TOPICS
        if topic.name in there and there[topic.name] < partitions_of(topic, kafka)
    ]
    together = {name: there[name] for name in COPARTITIONED if name in there}
    if len(set(together.values())) > 1:
        lines.append(
            "topics "
            + ", ".join(f"{kafka.prefix}{name} ({count})" for name, count in together.items())
            + " must have equally many partitions"
        )
    return lines


def _missing(kafka: Kafka, there: Counts, wanted: Sequence[str]) -> list[str]:
    return [
        f"topic {kafka.prefix}{name} is not for us to see: {kafka.username or 'this user'} lacks its role's ACLs "
        "(`stream-worker acls`)"
        if name in there.denied
        else f"topic {kafka.prefix}{name} is missing: create it with `stream-worker topics create`"
        for name in wanted
        if name not in there
    ]


async def require(kafka: Kafka, *names: str) -> None:
    """Raises UserError (exit code TOPICS) with the first problem, if there is one that lasts.

    With `names`, that these topics are there is enough: how they are cut is the service's business, and not that of an
    app that writes or reads one. Of a cluster's brokers, some know a new topic a moment later than the one that was
    asked when it was created.
    """
    deadline = asyncio.get_running_loop().time() + SPREAD_S
    while lines := _missing(kafka, await counts(kafka), names) if names else await problems(kafka):
        if asyncio.get_running_loop().time() > deadline:
            raise UserError(lines[0], Exit.TOPICS)
        await asyncio.sleep(0.5)
