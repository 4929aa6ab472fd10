"""The topics: whether they are there, cut and kept as the service needs them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from stream_worker import topics
from stream_worker.doctor.check import Finding, Part, failed, not_checked, ok, warning
from stream_worker.doctor.reach import connection
from stream_worker.settings import Kafka
from stream_worker.topics import Counts, Topic

CUT = "mend kafka.partitions; or, with nothing in flight, add partitions: kafka-topics.sh --alter --partitions"
"""`topics create` makes what is missing; it changes nothing that is there. Keys move where partitions are added."""
TOPIC = 2
"""A topic, as DescribeConfigs numbers its resources."""
READ = ("cleanup.policy", "retention.ms", "max.message.bytes", "message.timestamp.type", "min.insync.replicas")


@dataclass(frozen=True, slots=True)
class Found:
    """A topic that is there. `replicas`: of the partition that has the fewest; `config`: None where it is not shown."""

    partitions: int
    replicas: int
    leaderless: int = 0
    behind: int = 0
    config: Mapping[str, str] | None = None


async def layout(kafka: Kafka, parts: Collection[Part]) -> list[Finding]:
    """What is wrong with the topics that these parts work with. Nothing is created, also where brokers do so."""
    # A publisher is shown only what it writes to; all others may see, and need, all of them.
    wanted = [one for one in topics.TOPICS if set(parts) != {Part.PUBLISHER} or one.name == topics.IMAGES]
    names = {kafka.prefix + one.name: one.name for one in wanted}
    async with connection(kafka) as broker:
        described = (await broker.send(MetadataRequest(list(names), False))).to_object()["topics"]
        there = {names[one["topic"]]: one["partitions"] for one in described if one["error_code"] == 0}
        asked = DescribeConfigsRequest([(TOPIC, kafka.prefix + name, list(READ)) for name in there], False)
        configs = _configs(await broker.send(asked)) if there else {}
    counts = Counts((name, len(partitions)) for name, partitions in there.items())
    counts.denied = frozenset(
        names[one["topic"]] for one in described if one["error_code"] == TopicAuthorizationFailedError.errno
    )
    found = {
        name: Found(
            partitions=len(partitions),
            replicas=min((len(one["replicas"]) for one in partitions), default=0),
            leaderless=sum(one["leader"] < 0 for one in partitions),
            behind=sum(len(one["isr"]) < len(one["replicas"]) for one in partitions),
            config=configs.get(kafka.prefix + name),
        )
        for name, partitions in there.items()
    }
    return judged(kafka, wanted, counts, found)


def judged(kafka: Kafka, wanted: Collection[Topic], counts: Counts, found: Mapping[str, Found]) -> list[Finding]:
    """What is wrong, or that nothing is."""
    only = None if len(wanted) == len(topics.TOPICS) else [one.name for one in wanted]
    findings = [failed("topics", *_halves(line, CUT)) for line in topics.problems_in(kafka, counts, only)]
    for one in wanted:
        if one.name in found:
            findings += _cut(kafka, one, found[one.name])
            findings += _kept(kafka, one, found[one.name])
    if not findings:
        cut = sorted({f"{one.partitions} partitions x {one.replicas}" for one in found.values()})
        findings.append(ok("topics", f"all {len(wanted)} are there ({', '.join(cut)})"))
    if hidden := [kafka.prefix + name for name, one in found.items() if one.config is None]:
        why = f"retention and sizes of {', '.join(hidden)}: this user may not see them (DESCRIBE_CONFIGS)"
        findings.append(not_checked("topics", why, "run this once as an administrator"))
    return findings


def _halves(line: str, otherwise: str) -> tuple[str, str]:
    """What `topics` says in one line: what is wrong, and behind the colon what to do; where it says the latter."""
    seen, _, do = line.partition(": ")
    return (seen, do) if "`" in do else (line, otherwise)


def _cut(kafka: Kafka, topic: Topic, found: Found) -> Iterator[Finding]:
    name = kafka.prefix + topic.name
    if found.leaderless:
        seen = f"{found.leaderless} partitions of {name} have no leader"
        yield failed("topics", seen, "a broker that holds them is down: start it")
    elif found.behind:
        seen = f"{found.behind} partitions of {name} have replicas that are behind"
        yield warning("topics", seen, "see whether all brokers are up and keep up")
    if found.replicas < kafka.replication_factor:
        seen = f"{name} has {found.replicas} replicas, kafka.replication_factor is {kafka.replication_factor}"
        yield warning("topics", seen, "add replicas with kafka-reassign-partitions.sh, or mend the setting")


def _kept(kafka: Kafka, topic: Topic, found: Found) -> Iterator[Finding]:
    """What differs from how `topics create` makes it, where that matters."""
    name, wanted, config = kafka.prefix + topic.name, topics.config_of(topic, kafka), found.config or {}

    def change(key: str) -> str:
        return f"kafka-configs.sh --alter --topic {name} --add-config {key}={wanted[key]}"

    key = "max.message.bytes"
    if key in config and int(config[key]) < int(wanted[key]):
        yield failed("topics", f"{name}: {key} is {config[key]}, events may have {wanted[key]}", change(key))
    key = "cleanup.policy"
    if key in config and config[key] != wanted[key]:
        # What is only deleted after a week loses the join's state; what is compacted loses all but one event a key.
        yield failed("topics", f"{name}: {key} is {config[key]}, it must be {wanted[key]}", change(key))
    key = "message.timestamp.type"
    if key in wanted and config.get(key, wanted[key]) != wanted[key]:
        seen = f"{name}: {key} is {config[key]}: a publisher's wrong clock shortens deadlines"
        yield warning("topics", seen, change(key))
    key = "retention.ms"
    if key in wanted and 0 <= int(config.get(key, -1)) < int(wanted[key]):
        seen = f"{name}: {key} is {config[key]}, `topics create` makes it {wanted[key]}: a lag that long loses events"
        yield warning("topics", seen, change(key))
    least = int(config.get("min.insync.replicas", 1))
    if least > found.replicas:
        seen = f"{name}: min.insync.replicas is {least}, but there are {found.replicas}: nothing can be written"
        yield failed("topics", seen, "more replicas, or a smaller min.insync.replicas")


def _configs(response: Any) -> dict[str, dict[str, str]]:
    """Topic -> its configuration, of those that are shown."""
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4] if entry[1] is not None}
        for resource in response.resources
        if resource[0] == 0
    }
