"""Who may do what in Kafka: the roles, each with the least that its code needs. The one source of the ACLs.

`stream-worker acls` prints and applies them, ops/security.md has the table (`markdown()`), and
tests/integration/test_security.py tries every role with every operation on a broker that has these and no others.

Kafka: WRITE, READ and the like imply DESCRIBE of the same resource. A transactional producer needs WRITE on its id and
no more of the cluster; an idempotent one without an id is let in, since 3.0, by WRITE on any topic (KIP-679): nobody
here needs IDEMPOTENT_WRITE, or anything else on the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from shlex import quote

from stream_worker import topics


class Resource(IntEnum):
    """What is protected, as the protocol numbers it."""

    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5


class Operation(IntEnum):
    """What is done to it, as the protocol numbers it."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


class Pattern(IntEnum):
    """How a resource is named, as the protocol numbers it."""

    LITERAL = 3
    PREFIXED = 4


class Role(StrEnum):
    """Who talks to Kafka."""

    ADMIN = "admin"
    PUBLISHER = "publisher"
    DETECTOR = "detector"
    RECONSTRUCTOR = "reconstructor"
    AGGREGATOR = "aggregator"
    READER = "reader"
    AUDITOR = "auditor"
    REPLAYER = "replayer"
    LETTERS = "letters"
    OBSERVER = "observer"


WHO = {
    Role.ADMIN: "`stream-worker topics create`, `topics check`",
    Role.PUBLISHER: "apps that publish photos; `publish` (`--when-idle` looks at the groups too: `replayer`)",
    Role.DETECTOR: "the detector group: `detect`",
    Role.RECONSTRUCTOR: "the reconstructor group: `reconstruct`",
    Role.AGGREGATOR: "the aggregator group: `aggregate`",
    Role.READER: "apps that read results, with the group that `--group` names; `watch`, `compare`",
    Role.AUDITOR: "`audit`",
    Role.REPLAYER: "`replay`",
    Role.LETTERS: "whoever sees to the dead letters: `dead-letters`",
    Role.OBSERVER: "`status`, `show`",
}

IMPLIES_DESCRIBE = frozenset({Operation.READ, Operation.WRITE, Operation.DELETE, Operation.ALTER})
"""Of every resource; DESCRIBE_CONFIGS is implied by ALTER_CONFIGS alone."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One thing that a role may do. `name` stands behind `kafka.prefix`."""

    resource: Resource
    name: str
    operation: Operation
    pattern: Pattern = Pattern.LITERAL
    ours: bool = True
    """Whether `kafka.prefix` stands before the name: not before the group of somebody's app."""

    def full_name(self, prefix: str) -> str:
        """As Kafka knows it."""
        return prefix + self.name if self.ours else self.name

    def allows(self, resource: Resource, name: str, operation: Operation, prefix: str = "") -> bool:
        """Whether this lets somebody do that, by Kafka's rules."""
        ours = self.full_name(prefix)
        named = name.startswith(ours) if self.pattern is Pattern.PREFIXED else name == ours
        if resource is not self.resource or not named:
            return False
        implied = operation is Operation.DESCRIBE and self.operation in IMPLIES_DESCRIBE
        return operation is self.operation or implied


EVERY = tuple(topic.name for topic in topics.TOPICS)


def grants(role: Role, group: str | None = None) -> tuple[Grant, ...]:
    """What a role may do. `group`: the consumer group of a reader's own app; None: it reads without one."""
    listed = tuple(dict.fromkeys(_grants(role, group)))

    def implied(grant: Grant) -> bool:
        others = (one for one in listed if one.operation in IMPLIES_DESCRIBE and one.pattern is Pattern.LITERAL)
        return grant.operation is Operation.DESCRIBE and any(
            (one.resource, one.name) == (grant.resource, grant.name) for one in others
        )

    return tuple(grant for grant in listed if not implied(grant))


def _grants(role: Role, group: str | None) -> Iterator[Grant]:
    match role:
        case Role.ADMIN:
            yield from _topics(EVERY, Operation.CREATE)
            yield from _topics(EVERY, Operation.DESCRIBE)
        case Role.PUBLISHER:
            yield from _topics((topics.IMAGES,), Operation.WRITE)
        case Role.DETECTOR:
            yield from _worker("detector", topics.IMAGES)
            yield from _topics((topics.OBJECTS, topics.DETECTIONS), Operation.WRITE)
            # It gives each object to the reconstructor that will be done with it first, and counts what waits.
            yield from _topics((topics.OBJECTS,), Operation.READ)
            yield Grant(Resource.GROUP, "reconstructor", Operation.DESCRIBE)
        case Role.RECONSTRUCTOR:
            yield from _worker("reconstructor", topics.OBJECTS)
            yield from _topics((topics.RECONSTRUCTIONS,), Operation.WRITE)
        case Role.AGGREGATOR:
            yield from _worker("aggregator", topics.DETECTIONS, topics.RECONSTRUCTIONS)
            yield from _topics((topics.COMPLETED, topics.CHANGELOG), Operation.WRITE)
            yield from _topics((topics.CHANGELOG,), Operation.READ)
        case Role.READER:
            yield from _topics((topics.COMPLETED,), Operation.READ)
            if group is not None:
                yield Grant(Resource.GROUP, group, Operation.READ, ours=False)
        case Role.AUDITOR:
            yield from _topics((topics.IMAGES, topics.DETECTIONS, topics.RECONSTRUCTIONS), Operation.READ)
            yield from _topics((topics.COMPLETED, topics.DEAD_LETTERS), Operation.READ)
        case Role.REPLAYER:
            written = (topics.IMAGES, topics.OBJECTS, topics.DETECTIONS)
            yield from _topics((*written, topics.COMPLETED), Operation.READ)
            yield from _topics(written, Operation.WRITE)
            yield from _describe_groups("detector", "reconstructor")
            yield Grant(Resource.TRANSACTIONAL_ID, "replay.", Operation.WRITE, Pattern.PREFIXED)
        case Role.LETTERS:
            yield from _topics((topics.DEAD_LETTERS,), Operation.READ)
            yield from _topics((topics.IMAGES, topics.OBJECTS), Operation.WRITE)
            yield Grant(Resource.TRANSACTIONAL_ID, "dead-letters.", Operation.WRITE, Pattern.PREFIXED)
        case Role.OBSERVER:
            yield from _topics(tuple(name for name in EVERY if name != topics.CHANGELOG), Operation.READ)
            yield from _topics((topics.CHANGELOG,), Operation.DESCRIBE)
            yield from _describe_groups("detector", "reconstructor", "aggregator")


def _worker(group: str, *reads: str) -> Iterator[Grant]:
    """What every group's workers need: their input, their group, their transactions, and to check the topics."""
    yield from _topics(reads, Operation.READ)
    yield from _topics((topics.DEAD_LETTERS,), Operation.WRITE)
    yield from _topics(EVERY, Operation.DESCRIBE)
    yield Grant(Resource.GROUP, group, Operation.READ)
    # One id a partition: `detector.images.0`, `detector.images.1`...
    yield Grant(Resource.TRANSACTIONAL_ID, f"{group}.{reads[0]}.", Operation.WRITE, Pattern.PREFIXED)


def _topics(names: tuple[str, ...], operation: Operation) -> Iterator[Grant]:
    for name in names:
        yield Grant(Resource.TOPIC, name, operation)


def _describe_groups(*names: str) -> Iterator[Grant]:
    for name in names:
        yield Grant(Resource.GROUP, name, Operation.DESCRIBE)


def commands(role: Role, principal: str, *, servers: str, prefix: str = "", group: str | None = None) -> list[str]:
    """The lines that give a principal its role with Kafka's own tool."""
    flags = {
        Resource.TOPIC: "--topic",
        Resource.GROUP: "--group",
        Resource.CLUSTER: "--cluster",
        Resource.TRANSACTIONAL_ID: "--transactional-id",
    }
    lines = []
    for grant in grants(role, group):
        pattern = " --resource-pattern-type prefixed" if grant.pattern is Pattern.PREFIXED else ""
        operation = "".join(word.capitalize() for word in grant.operation.name.split("_"))
        lines.append(
            f"kafka-acls.sh --bootstrap-server {quote(servers)} --command-config admin.properties --add "
            f"--allow-principal {quote(principal)} --operation {operation} "
            f"{flags[grant.resource]} {quote(grant.full_name(prefix))}{pattern}"
        )
    return lines


def markdown() -> str:
    """All roles, as the table of ops/security.md."""
    rows = ["| role | who | topics | groups | transactional ids |", "|---|---|---|---|---|"]
    for role in Role:
        listed: dict[Resource, dict[str, list[str]]] = {}
        for grant in grants(role, group="my-app"):
            name = f"`{grant.name}{'*' if grant.pattern is Pattern.PREFIXED else ''}`"
            listed.setdefault(grant.resource, {}).setdefault(name, []).append(grant.operation.name)
        cells = [
            "; ".join(f"{name} {' '.join(sorted(operations))}" for name, operations in listed.get(kind, {}).items())
            for kind in (Resource.TOPIC, Resource.GROUP, Resource.TRANSACTIONAL_ID)
        ]
        rows.append(f"| `{role}` | {WHO[role]} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"
