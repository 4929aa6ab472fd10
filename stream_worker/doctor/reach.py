"""The brokers: whether they answer from here, let us in, and are new enough; and where they send us on to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.metadata import MetadataRequest

from stream_worker import security
from stream_worker.bootstrap import DEFAULT, entry
from stream_worker.doctor.check import Finding, failed, ok, warning
from stream_worker.errors import UserError
from stream_worker.local_default import connected
from stream_worker.security.refusals import why
from stream_worker.settings import Kafka, Settings

FETCH = 1
RELEASES = {13: "3.1", 14: "3.5", 15: "3.5", 16: "3.7", 17: "3.9", 18: "4.1"}
"""The highest version of Fetch that a broker speaks -> the first Kafka that spoke it. A broker does not say its own."""
OLDEST_FETCH = min(RELEASES)
NEEDED = {0: "Produce", 22: "InitProducerId", 24: "AddPartitionsToTxn", 26: "EndTxn", 28: "TxnOffsetCommit"}
"""What transactions are made of."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one server said. `apis`: API key -> the highest version that it speaks; none where it did not answer."""

    server: str
    apis: Mapping[int, int] = field(default_factory=dict)
    brokers: Sequence[str] = ()


async def brokers(settings: Settings) -> tuple[list[Finding], Kafka | None]:
    """The findings, and how to go on asking; None where nobody lets us in."""
    try:
        kafka = connected(settings).kafka
    except UserError as error:
        do = "name the broker with kafka.bootstrap_servers, or start a private one: `stream-worker kafka start`"
        return [failed("broker", str(error).partition(": ")[0], do)], None
    try:
        arguments = security.client(kafka)
        hosts = collect_hosts(kafka.bootstrap_servers or DEFAULT, randomize=False)
    except UserError as error:
        return [failed("broker", str(error), "mend that file or setting (ops/security.md)")], None
    except ValueError:
        return [failed("broker", f"{kafka.bootstrap_servers} is no list of host:port", "kafka.bootstrap_servers")], None
    answers = await asyncio.gather(*(_ask(host, port, kafka, arguments) for host, port, _ in hosts))
    # An answer that names no broker is what aiokafka makes of a token that was refused.
    well = [answer for answer in answers if answer.apis and answer.brokers]
    if not well:
        if (reason := await why(kafka)) is not None:
            return [failed("broker", reason, "mend that setting, or the broker's listener (ops/security.md)")], None
        seen = f"no broker answers at {kafka.bootstrap_servers}"
        return [failed("broker", seen, "start it, see to the network between, or mend kafka.bootstrap_servers")], None
    findings = [speaks(well[0])]
    if silent := [answer.server for answer in answers if answer not in well]:
        seen = f"of kafka.bootstrap_servers, these do not answer: {', '.join(silent)}"
        findings.append(warning("broker", seen, "start them, or take them out of the list"))
    findings.append(await _sent_on_to(kafka, arguments, well))
    return findings, kafka


def speaks(answer: Answer) -> Finding:
    """Whether a broker is new enough."""
    if lacking := [name for key, name in NEEDED.items() if key not in answer.apis]:
        seen = f"{answer.server} knows no {', '.join(lacking)}: no transactions"
        return failed("broker", seen, "exactly-once needs them: use Apache Kafka 3.1 or later")
    fetch = answer.apis.get(FETCH, 0)
    if fetch < OLDEST_FETCH:
        seen = f"{answer.server} answers, older than Kafka {RELEASES[OLDEST_FETCH]} (Fetch up to version {fetch})"
        return warning("broker", seen, "upgrade it: with brokers this old the service was never tried")
    release = RELEASES[min(fetch, max(RELEASES))]
    return ok("broker", f"{answer.server} answers, Kafka {release} or later (Fetch up to version {fetch})")


async def _ask(host: str, port: int, kafka: Kafka, arguments: dict[str, Any]) -> Answer:
    server = f"{host}:{port}"
    try:
        connection = await create_conn(host, port, request_timeout_ms=kafka.request_timeout_ms, **arguments)
        try:
            versions = await connection.send(ApiVersionRequest())
            metadata = (await connection.send(MetadataRequest([], False))).to_object()
        finally:
            connection.close()
    except (KafkaError, OSError, TimeoutError, ValueError):
        return Answer(server)  # why is asked once, of all of them
    return Answer(
        server,
        {key: highest for key, _, highest in versions.api_versions},
        [f"{broker['host']}:{broker['port']}" for broker in metadata["brokers"]],
    )


async def _sent_on_to(kafka: Kafka, arguments: dict[str, Any], well: Sequence[Answer]) -> Finding:
    """A client asks one server, and then works with the addresses that the cluster names: they must answer too."""
    named = sorted({server for answer in well for server in answer.brokers})
    hosts = [(server, *server.rsplit(":", 1)) for server in named]
    asked = await asyncio.gather(*(_ask(host, int(port), kafka, arguments) for _, host, port in hosts))
    if silent := [answer.server for answer in asked if not answer.apis]:
        return failed(
            "brokers",
            f"the cluster sends clients on to {', '.join(silent)}, where nobody answers us",
            "advertised.listeners of that broker must be an address that this machine reaches; or that broker is down",
        )
    return ok("brokers", f"all {len(named)} of the cluster answer where it says they are: {', '.join(named)}")


@asynccontextmanager
async def connection(kafka: Kafka) -> AsyncIterator[AIOKafkaConnection]:
    """A connection to ask by. Raises KafkaError and OSError."""
    arguments = await entry(kafka)
    ((host, port, _), *_) = collect_hosts(arguments.pop("bootstrap_servers"), randomize=False)
    one = await create_conn(host, port, request_timeout_ms=kafka.request_timeout_ms, **arguments)
    try:
        yield one
    finally:
        one.close()
