"""Every role with every operation, on a Kafka with its authorizer on: what is declared works, and nothing else does.

One connection a role and one request a cell, all asked once; each cell is then a test of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.protocol.admin import (
    AlterConfigsRequest,
    CreateAclsRequest,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteGroupsRequest,
    DeleteRecordsRequest,
    DescribeAclsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
)
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from stream_worker import security
from stream_worker.errors import Exit, UserError
from stream_worker.security import authorizing
from stream_worker.security.acl import EVERY, Operation, Resource, Role, grants
from stream_worker.settings import Kafka
from tests.conftest import run
from tests.servers.secured_kafka import APP_GROUP, ROOT, SecuredKafka

PREFIX = "matrix-"
NOBODY = "anonymous"
"""Whoever comes by the listener that asks for no name: no role, so nothing."""

DENIED = frozenset({29, 30, 31, 53})
"""TOPIC_, GROUP_, CLUSTER_ and TRANSACTIONAL_ID_AUTHORIZATION_FAILED."""
LET_IN = frozenset({0, 25, 36})
"""Done; or let in as far as the request can go here: UNKNOWN_MEMBER_ID, TOPIC_ALREADY_EXISTS."""
NOT_YET = frozenset({5, 6, 14, 15, 16, 51})
"""A leader or coordinator is not there yet, or busy with the same id."""


@dataclass(frozen=True)
class Probe:
    """A request that needs one right. `name`: the full name of what it is asked of."""

    resource: Resource
    name: str
    operation: Operation
    request: Callable[[str], Any]

    @property
    def id(self) -> str:
        return f"{self.operation.name}-{self.resource.name}-{self.name}"


def batch() -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 16384)
    builder.append(0, 1_700_000_000_000, b"key", b"value", headers=[])
    return bytes(builder.build())


def probes() -> Iterator[Probe]:
    for topic in EVERY:
        name = PREFIX + topic
        for operation, request in (
            (Operation.WRITE, lambda one: ProduceRequest(None, -1, 10_000, [(one, [(0, batch())])])),
            (Operation.READ, lambda one: FetchRequest(1, 0, 1024, 1, [(one, [(0, 0, 1024)])])),
            (Operation.DESCRIBE, lambda one: MetadataRequest([one])),
            (Operation.CREATE, lambda one: CreateTopicsRequest([(one, 1, 1, [], [])], 10_000, True)),
            (Operation.DELETE, lambda one: DeleteRecordsRequest([(one, [(0, 0)])], 10_000)),
            (Operation.ALTER, lambda one: CreatePartitionsRequest([(one, (9, None))], 10_000, True)),
            (Operation.ALTER_CONFIGS, lambda one: AlterConfigsRequest([(2, one, [("retention.ms", "1")])], True)),
            (Operation.DESCRIBE_CONFIGS, lambda one: DescribeConfigsRequest([(2, one, ["retention.ms"])])),
        ):
            yield Probe(Resource.TOPIC, name, operation, request)
    for name in (*(PREFIX + group for group in ("detector", "reconstructor", "aggregator")), APP_GROUP, "somebodys"):
        yield Probe(Resource.GROUP, name, Operation.READ, lambda one: HeartbeatRequest(one, 0, "nobody"))
        yield Probe(Resource.GROUP, name, Operation.DESCRIBE, lambda one: DescribeGroupsRequest([one]))
        yield Probe(Resource.GROUP, name, Operation.DELETE, lambda one: DeleteGroupsRequest([one]))
    ids = ("detector.images.0", "reconstructor.objects.0", "aggregator.detections.0", "replay.mended", "dead-letters.1")
    for name in (*(PREFIX + one for one in ids), "somebodys"):
        yield Probe(Resource.TRANSACTIONAL_ID, name, Operation.WRITE, lambda one: InitProducerIdRequest(one, 10_000))
        yield Probe(Resource.TRANSACTIONAL_ID, name, Operation.DESCRIBE, lambda one: FindCoordinatorRequest(one, 1))
    yield Probe(Resource.CLUSTER, "cluster", Operation.IDEMPOTENT_WRITE, lambda _: InitProducerIdRequest(None, 10_000))
    yield Probe(
        Resource.CLUSTER, "cluster", Operation.DESCRIBE, lambda _: DescribeAclsRequest(1, None, 1, None, None, 1, 1)
    )
    yield Probe(
        Resource.CLUSTER,
        "cluster",
        Operation.ALTER,
        lambda _: CreateAclsRequest(2, PREFIX + "images", 3, "User:thief", "*", int(Operation.READ), 3),
    )


PROBES = {probe.id: probe for probe in probes()}
WHO = (*Role, NOBODY)


def declared(who: str, probe: Probe) -> bool:
    """Whether the roles' table says so, by Kafka's rules."""
    granted = () if who == NOBODY else grants(Role(who), APP_GROUP)
    if probe.operation is Operation.IDEMPOTENT_WRITE:  # KIP-679
        return any(one.resource is Resource.TOPIC and one.operation is Operation.WRITE for one in granted)
    return any(one.allows(probe.resource, probe.name, probe.operation, PREFIX) for one in granted)


def codes(response: Any) -> set[int]:
    """Every error code of a response, wherever it stands in it."""
    found: set[int] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                found.add(inner) if name == "error_code" else walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(response.to_object())
    return found


async def ask(kafka: Kafka) -> dict[str, set[int]]:
    host, _, port = str(kafka.bootstrap_servers).partition(":")
    connection: AIOKafkaConnection = await create_conn(host, int(port), **security.client(kafka))
    try:
        return {name: await answer(connection, probe) for name, probe in PROBES.items()}
    finally:
        connection.close()


async def answer(connection: AIOKafkaConnection, probe: Probe) -> set[int]:
    """Ask until it is an answer: a coordinator may just be loading its partition."""
    async with asyncio.timeout(60):
        while True:
            got = codes(await connection.send(probe.request(probe.name)))
            if not got & NOT_YET:
                return got
            await asyncio.sleep(0.2)


async def coordinators(kafka: Kafka) -> None:
    """Have the topics of groups and transactions made: it takes somebody who may ask for a coordinator."""
    host, _, port = str(kafka.bootstrap_servers).partition(":")
    connection: AIOKafkaConnection = await create_conn(host, int(port), **security.client(kafka))
    try:
        async with asyncio.timeout(60):
            for kind in (0, 1):
                while codes(await connection.send(FindCoordinatorRequest("any", kind))) & NOT_YET:  # noqa: ASYNC110  # asked
                    await asyncio.sleep(0.2)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def answers(secured: SecuredKafka) -> dict[tuple[str, str], set[int]]:
    """The error codes of every cell."""

    async def all_of_them() -> dict[tuple[str, str], set[int]]:
        await secured.furnish(PREFIX)
        await coordinators(secured.by_password(ROOT))
        found = {}
        for who in WHO:
            kafka = (
                Kafka(bootstrap_servers=secured.bootstrap_servers)
                if who == NOBODY
                else secured.by_password(who, PREFIX)
            )
            found |= {(who, name): got for name, got in (await ask(kafka)).items()}
        return found

    return run(all_of_them())


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("who", WHO)
def test_what_is_declared_works_and_nothing_else(answers: dict[tuple[str, str], set[int]], who: str, name: str) -> None:
    got = answers[who, name]
    if declared(who, PROBES[name]):
        assert got <= LET_IN, got
    else:
        assert got & DENIED, got


def test_the_matrix_is_what_it_says() -> None:
    """Denied many times over, also what matters most; allowed often enough to mean something."""
    denials = {(who, name) for who in Role for name, probe in PROBES.items() if not declared(who, probe)}
    assert len(denials) >= 60
    assert len(Role) * len(PROBES) - len(denials) >= 60
    for who, name in (
        ("publisher", f"READ-TOPIC-{PREFIX}completed-images"),
        ("reader", f"WRITE-TOPIC-{PREFIX}images"),
        ("detector", f"WRITE-TOPIC-{PREFIX}completed-images"),
        ("detector", f"READ-GROUP-{PREFIX}reconstructor"),
        ("reconstructor", f"WRITE-TRANSACTIONAL_ID-{PREFIX}detector.images.0"),
        ("reconstructor", f"READ-TOPIC-{PREFIX}images"),
        ("aggregator", f"WRITE-TOPIC-{PREFIX}images"),
        ("auditor", f"WRITE-TOPIC-{PREFIX}dead-letters"),
        ("letters", f"WRITE-TOPIC-{PREFIX}completed-images"),
        ("replayer", f"READ-GROUP-{PREFIX}detector"),
        ("observer", f"READ-TOPIC-{PREFIX}join-changelog"),
        ("admin", f"READ-TOPIC-{PREFIX}images"),
        ("admin", "ALTER-CLUSTER-cluster"),
    ):
        assert (who, name) in denials


async def test_only_a_super_user_gives_acls(secured: SecuredKafka) -> None:
    with pytest.raises(UserError, match="takes ALTER on the cluster") as error:
        await authorizing.apply(secured.by_password(Role.ADMIN, PREFIX), Role.READER, "User:thief")
    assert error.value.exit_code is Exit.BROKER
    assert await authorizing.apply(secured.by_password(ROOT, PREFIX), Role.READER, "User:reader") == 1


async def test_a_broker_without_an_authorizer_is_said(kafka: str, prefix: str) -> None:
    with pytest.raises(UserError, match="no authorizer"):
        await authorizing.apply(Kafka(bootstrap_servers=kafka, prefix=prefix), Role.READER, "User:reader")
