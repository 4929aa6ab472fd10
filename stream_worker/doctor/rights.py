"""The ACLs: each right of a role, tried by a request that changes nothing, whatever the answer.

A broker looks at the rights before it looks at the request, so a request that can't be done tells "you may not" from
"it can't be": records are written to and read from a partition that no topic has, a heartbeat comes from a member that
no group has, and a transaction is ended of a producer that there is not. InitProducerId would tell of a transactional
id too, but it fences whoever has it: so EndTxn is sent instead, which begins nothing, and of an id that no lane uses.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any

from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from stream_worker.doctor.check import Finding, Part, failed, not_checked, ok
from stream_worker.doctor.reach import FETCH, connection
from stream_worker.security.acl import Grant, Operation, Pattern, Resource, Role, grants
from stream_worker.settings import Kafka

NOWHERE = 2**31 - 1
"""The number of a partition that no topic has."""
NOBODY = "stream-worker-doctor"

DENIED = frozenset({29, 30, 31, 53})
"""TOPIC_, GROUP_, CLUSTER_ and TRANSACTIONAL_ID_AUTHORIZATION_FAILED."""
PAST_THE_RIGHTS = frozenset({0, 3, 6, 14, 15, 16, 22, 25, 47, 48, 49, 69, 90})
"""Done, or refused for what it asks: no such partition, leader, coordinator, generation, member, producer or group."""


async def rights(kafka: Kafka, parts: Collection[Part]) -> list[Finding]:
    """Whether we may do what each of these parts does."""
    asked = {part: grants(Role(part)) for part in parts}
    async with connection(kafka) as broker:
        codes = {
            grant: _codes(await broker.send(request(grant, kafka.prefix)))
            for grant in dict.fromkeys(grant for listed in asked.values() for grant in listed)
        }
    return judged(kafka, asked, codes)


def request(grant: Grant, prefix: str) -> Any:
    """The request that needs this right, and does nothing."""
    name = grant.full_name(prefix)
    match grant.resource, grant.operation:
        case Resource.TOPIC, Operation.READ:
            return FetchRequest(0, 0, 1, 0, [(name, [(NOWHERE, 0, 1)])])
        case Resource.TOPIC, Operation.WRITE:
            return ProduceRequest(None, -1, 10_000, [(name, [(NOWHERE, _batch())])])
        case Resource.TOPIC, Operation.DESCRIBE:
            return MetadataRequest([name], False)
        case Resource.GROUP, Operation.READ:
            return HeartbeatRequest(name, 0, NOBODY)
        case Resource.GROUP, Operation.DESCRIBE:
            return DescribeGroupsRequest([name])
        case Resource.TRANSACTIONAL_ID, Operation.WRITE:
            # Lanes put the number of their partition behind it.
            own = f"{name}doctor" if grant.pattern is Pattern.PREFIXED else name
            return EndTxnRequest(own, NOWHERE, 0, False)
    raise ValueError(f"no harmless request needs {grant.operation.name} of a {grant.resource.name}")


def judged(kafka: Kafka, asked: dict[Part, tuple[Grant, ...]], codes: dict[Grant, frozenset[int]]) -> list[Finding]:
    """Which rights each part lacks."""
    findings = []
    for part, listed in asked.items():
        denied = [grant for grant in listed if codes[grant] & DENIED]
        unclear = [grant for grant in listed if codes[grant] - DENIED - PAST_THE_RIGHTS]
        if denied:
            who = kafka.username or "whoever this certificate, token or listener makes of us"
            lacking = ", ".join(_named(grant, kafka.prefix) for grant in denied)
            findings.append(
                failed(
                    "acls",
                    f"{part}: {who} lacks {len(denied)} of {len(listed)} rights: {lacking}",
                    f"as an administrator: `stream-worker acls --role {part} --principal User:NAME --apply`",
                )
            )
        if unclear:
            said = ", ".join(f"{_named(grant, kafka.prefix)} ({sorted(codes[grant])})" for grant in unclear)
            findings.append(not_checked("acls", f"{part}: the broker's answer says neither yes nor no: {said}"))
        if not denied and not unclear:
            findings.append(ok("acls", f"{part}: all {len(listed)} rights are there, or the broker asks nobody"))
    return findings


def _named(grant: Grant, prefix: str) -> str:
    more = "*" if grant.pattern is Pattern.PREFIXED else ""
    return f"{grant.operation.name} {grant.resource.name.lower()} {grant.full_name(prefix)}{more}"


def _batch() -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1024)
    builder.append(0, int(time.time() * 1000), b"doctor", b"", headers=[])
    return bytes(builder.build())


def _codes(response: Any) -> frozenset[int]:
    if response.API_KEY == FETCH:
        # aiokafka's `to_object` can't take a list that is null, as that of aborted transactions may be.
        return frozenset(code for _, partitions in response.topics for _, code, *_ in partitions)
    return frozenset(_walk(response.to_object()))


def _walk(value: Any) -> Iterator[int]:
    """Every error code, wherever it stands."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "error_code":
                yield inner
            else:
                yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)
