"""The service on a Kafka that asks everybody who they are: each way in, each role, changed secrets, refusals."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import ssl
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from stream_worker import security, status, topics
from stream_worker.aggregator.service import Aggregator
from stream_worker.audit.run import audit
from stream_worker.dead_letters import PREFIX as LETTER
from stream_worker.detector import Detector
from stream_worker.errors import Exit, UserError
from stream_worker.events import CompletedImageEvent, utc_now
from stream_worker.letters import Letter, Wanted, letters, retried, send
from stream_worker.publish import Publisher
from stream_worker.reconstructor import Reconstructor
from stream_worker.records import Output
from stream_worker.replay.selection import Selection, Source
from stream_worker.replay.send import replay
from stream_worker.results import Results, Waiting
from stream_worker.security import refusals
from stream_worker.security.acl import Role
from stream_worker.settings import Kafka, Settings
from stream_worker.stage import Stage
from stream_worker.story import story
from tests.command import require_mistake, stream_worker
from tests.conftest import run
from tests.photo_server import Answer, serving
from tests.servers.secured_kafka import APP_GROUP, SecuredKafka, token
from tests.staging import running, with_stubs
from tests.stubs import photo

pytestmark = pytest.mark.timeout(600)

CANARY = "canary-7ac2"
WORKERS = {Role.DETECTOR: Detector, Role.RECONSTRUCTOR: Reconstructor, Role.AGGREGATOR: Aggregator}


@pytest.fixture(scope="module")
def furnished(secured: SecuredKafka) -> str:
    """A prefix whose roles have their ACLs, and whose topics are there."""
    prefix = f"s{uuid.uuid4().hex[:8]}-"
    run(secured.furnish(prefix))
    return prefix


def answer(path: str) -> Answer:
    if "text" in path:
        return 200, "image/png", b"<html>not a photo</html>"
    return 200, "image/png", photo(3, 2)


Of = Callable[[Role], Settings]


@asynccontextmanager
async def service(of: Of) -> AsyncIterator[dict[Role, Stage]]:
    """A worker of each group, each under its own user."""
    async with AsyncExitStack() as stack:
        yield {
            role: await stack.enter_async_context(running(group(of(role), f"{role}-0"), of(role)))
            for role, group in WORKERS.items()
        }


def by(way: Callable[[Role, str], Kafka], prefix: str, folder: Path, base: str) -> Of:
    def of(role: Role) -> Settings:
        settings = with_stubs("", prefix, folder, base)
        return settings.model_copy(update={"kafka": way(role, prefix)})

    return of


async def completed(of: Of, url: str, image_id: str) -> CompletedImageEvent:
    """Publish a photo as the publisher, and read its outcome as the reader."""
    async with Waiting(of(Role.READER)) as waiting, Publisher(of(Role.PUBLISHER)) as publisher:
        await publisher.publish(url, image_id=image_id)
        return await asyncio.wait_for(waiting.wait_for(image_id), 240)


# ---------------------------------------------------------------------------- every role does its work


async def test_each_role_does_all_of_its_work_under_its_own_user(
    secured: SecuredKafka, furnished: str, tmp_path: Path
) -> None:
    """By password over TLS: the groups complete a photo, and every command of every role does what it is there for."""
    with serving(answer) as base:

        def over_tls(role: Role, prefix: str) -> Kafka:
            return secured.by_password(role, prefix, listener="SASLTLS")

        of = by(over_tls, furnished, tmp_path, base)
        async with service(of):
            done = await completed(of, f"{base}/photo", "room")
            assert (done.status, len(done.objects)) == ("complete", 2)
            failed = await completed(of, f"{base}/text?key={CANARY}", "text")
            assert failed.status == "failed"
            refused = await completed(of, f"http://user:{CANARY}@{base.removeprefix('http://')}/photo", "credentials")
            assert refused.status == "failed"
            assert CANARY not in refused.model_dump_json()

            async with Results(of(Role.READER), group=APP_GROUP) as results:
                seen = {(await asyncio.wait_for(anext(results), 60)).image_id for _ in range(3)}
            assert seen == {"room", "text", "credentials"}
            for source, name in ((Source.IMAGES, "again"), (Source.OBJECTS, "only-3d")):
                again = await replay(of(Role.REPLAYER), Selection(source, ids=frozenset({"room"})), name)
                assert dict(again.statuses) == {"complete": 1}

            kept = [letter async for letter in letters(of(Role.LETTERS), Wanted())]
            assert {letter.reason for letter in kept} == {"not_an_image", "url_refused"}
            for letter in kept:  # the record itself stays as it came; what we say of it holds none of its secrets
                assert CANARY.encode() in (letter.value or b"")
                assert CANARY not in letter.message + repr([h for h in letter.headers if h[0].startswith(LETTER)])
            async with Waiting(of(Role.READER)) as waiting:
                assert await send(of(Role.LETTERS), _retries(kept)) == 2
                assert (await asyncio.wait_for(waiting.wait_for("text", run="live.retry-1"), 240)).status == "failed"

            groups = await status.measure(of(Role.OBSERVER), over_s=0.1)
            assert {row.group: row.members for row in groups} == dict.fromkeys(
                ("detector", "reconstructor", "aggregator"), 1
            )
            assert {chapter.what for chapter in await story(of(Role.OBSERVER), "room")} >= {"published", "completed"}
        report = await audit(of(Role.AUDITOR))
        assert report.holds, report.plain()


async def _retries(kept: list[Letter]) -> AsyncIterator[Output]:
    for letter in kept:
        output = retried(letter, 3, 3600, utc_now())
        assert isinstance(output, Output), output
        yield output


async def test_a_worker_without_its_acls_says_so(secured: SecuredKafka, furnished: str, tmp_path: Path) -> None:
    with serving(answer) as base:
        of = by(secured.by_password, furnished, tmp_path, base)
        with pytest.raises(UserError, match=r"is not for us to see: publisher lacks its role's ACLs") as error:
            await Stage(Aggregator(of(Role.PUBLISHER)), of(Role.PUBLISHER)).run()
        assert error.value.exit_code is Exit.TOPICS


# ---------------------------------------------------------------------------- secrets change while the service runs


async def test_all_secrets_change_while_the_workers_run(
    secured: SecuredKafka, furnished: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The detector comes by password, the reconstructor by certificate, the aggregator by token. All three change, and
    every connection is lost: first the password is refused, which is waited out, then the same processes go on.
    """
    ways = {
        Role.DETECTOR: secured.by_password,
        Role.RECONSTRUCTOR: secured.by_certificate,
        Role.AGGREGATOR: secured.by_token,
    }

    def its_own(role: Role, prefix: str) -> Kafka:
        return ways.get(role, secured.by_password)(role, prefix)

    with serving(answer) as base:
        of = by(its_own, furnished, tmp_path, base)
        async with service(of):
            assert (await completed(of, f"{base}/photo", "before")).status == "complete"

            await secured.change_password(Role.DETECTOR, "password-of-detector-2")
            renewed = secured.authority.sign("reconstructor-2", password="sesame", common_name="reconstructor")
            old = of(Role.RECONSTRUCTOR).kafka
            assert old.certificate_file is not None
            assert old.key_file is not None
            shutil.copy(renewed.certificate, old.certificate_file)  # one after the other: for a moment they don't fit
            shutil.copy(renewed.key, old.key_file)
            (secured.folder / "aggregator.token").write_text(token("aggregator", 7200))
            caplog.clear()
            with caplog.at_level(logging.ERROR, logger="aiokafka"):
                await secured.stop()
                await secured.start(timeout_s=300)
                while "SaslAuthenticationFailed" not in caplog.text:  # noqa: ASYNC110  # the old password, again
                    await asyncio.sleep(0.2)
            (secured.folder / "detector.password").write_text("password-of-detector-2\n")
            assert (await completed(of, f"{base}/photo", "after")).status == "complete"
            assert "password-of-detector" not in caplog.text


async def asked(kafka: Kafka, arguments: dict[str, Any], topic: str) -> int:
    """What a new connection of a client with these arguments is told of a topic: 0, or 29 for no right."""
    host, _, port = str(kafka.bootstrap_servers).partition(":")
    connection: AIOKafkaConnection = await create_conn(host, int(port), **arguments)
    try:
        found = await connection.send(MetadataRequest([topic]))
        return int(found.topics[0][0])
    finally:
        connection.close()


async def test_a_client_takes_new_files_at_its_next_connection(
    secured: SecuredKafka, furnished: str, tmp_path: Path
) -> None:
    """Seen by who it is: files of the publisher, then of the reader, in the hands of one and the same client."""
    topic = furnished + topics.COMPLETED
    certificate, key, tokens = tmp_path / "own.pem", tmp_path / "own.key", tmp_path / "token"

    def take(role: Role) -> None:
        given = secured.by_certificate(role)
        assert given.certificate_file is not None
        assert given.key_file is not None
        shutil.copy(given.certificate_file, certificate)
        shutil.copy(given.key_file, key)
        tokens.write_text(token(role))

    take(Role.PUBLISHER)
    by_certificate = secured.by_certificate(Role.PUBLISHER, certificate_file=certificate, key_file=key)
    by_token = secured.by_token(Role.PUBLISHER, file=tokens)
    ways = [(kafka, security.client(kafka)) for kafka in (by_certificate, by_token)]
    assert [await asked(kafka, arguments, topic) for kafka, arguments in ways] == [29, 29]
    take(Role.READER)
    assert [await asked(kafka, arguments, topic) for kafka, arguments in ways] == [0, 0]
    key.write_text("torn")  # files that don't fit: the certificate in force stays
    assert await asked(*ways[0], topic) == 0
    tokens.write_text("")
    with pytest.raises(KafkaError, match="is empty"):
        await asked(*ways[1], topic)


async def test_a_new_authority_is_believed_at_the_next_connection(secured: SecuredKafka, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    shutil.copy(secured.other_authority.ca_file, file)
    kafka = secured.by_certificate(Role.READER, ca_file=file)
    arguments = security.client(kafka)
    with pytest.raises(ssl.SSLCertVerificationError):
        await asked(kafka, arguments, "any")
    file.write_bytes(file.read_bytes() + secured.authority.ca_file.read_bytes())
    assert await asked(kafka, arguments, "any") == 29


async def test_tokens_come_from_an_identity_provider(secured: SecuredKafka, furnished: str, tmp_path: Path) -> None:
    """Client credentials: Kafka takes the token that the endpoint gives for them."""
    file = tmp_path / "client-secret"
    file.write_text("secret-1")

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            known = self.headers["authorization"] == f"Basic {b64encode(b'shop:secret-1').decode()}"
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"access_token": token("reader"), "expires_in": 60}).encode() if known else b"")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        kafka = Kafka(
            bootstrap_servers=secured.server("OAUTH"),
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="OAUTHBEARER",
            oauth_token_endpoint=f"http://127.0.0.1:{server.server_port}/token",
            oauth_client_id="shop",
            oauth_client_secret_file=file,
        )
        assert await asked(kafka, security.client(kafka), furnished + topics.COMPLETED) == 0
        file.write_text("secret-2")
        refused = kafka.model_copy(update={"oauth_scope": "another"})  # a provider of its own, without a token yet
        with pytest.raises(UserError, match=r"oauth_token_endpoint 127\.0\.0\.1 gives no token \(HTTP 401\)"):
            await topics.counts(refused)
        server.shutdown()


async def test_a_password_changes_at_the_next_connection(secured: SecuredKafka) -> None:
    kafka = secured.by_password(Role.LETTERS)
    arguments = security.client(kafka)
    await secured.change_password(Role.LETTERS, "password-of-letters-2")

    async def is_refused() -> bool:
        try:
            await asked(kafka, arguments, "any")
        except KafkaError as error:
            return "SaslAuthenticationFailed" in str(error)
        return False

    async with asyncio.timeout(60):  # the broker hears of it by the metadata log
        while not await is_refused():  # noqa: ASYNC110  # nobody tells, but who asks
            await asyncio.sleep(0.1)
    (secured.folder / "letters.password").write_text("password-of-letters-2")
    assert await asked(kafka, arguments, "any") == 29


# ---------------------------------------------------------------------------- refusals


def wrong(secured: SecuredKafka, which: str) -> tuple[Kafka, str]:
    """Settings that can't get in, and what must be said of them."""
    ours = secured.by_certificate(Role.READER)

    def at(listener: str, host: str | None = None, **security: Any) -> Kafka:
        return Kafka(bootstrap_servers=secured.server(listener, host), request_timeout_ms=10_000, **security)

    tls: dict[str, Any] = {"security_protocol": "SSL", "ca_file": secured.authority.ca_file}
    stranger = secured.other_authority.sign(f"stranger-{uuid.uuid4().hex[:6]}")
    expired = secured.authority.sign(f"late-{uuid.uuid4().hex[:6]}", validity=("20200101000000Z", "20200201000000Z"))
    password: dict[str, Any] = {"sasl_mechanism": "SCRAM-SHA-512", "username": "reader", "password": CANARY}
    cases: dict[str, tuple[Kafka, str]] = {
        "authority": (
            ours.model_copy(update={"ca_file": secured.other_authority.ca_file}),
            "is not signed by kafka.ca_file",
        ),
        "the machine's authorities": (at("TLS", security_protocol="SSL"), "kafka.ca_file names others"),
        "expired": (at("EXPIRED", **tls), "has expired: the broker needs a new one"),
        "host name": (at("TLS", "127.0.0.1", **tls), "is for another name"),
        "no certificate": (at("MTLS", **tls), "refuses us without a certificate"),
        "a stranger's certificate": (
            at("MTLS", **tls, certificate_file=stranger.certificate, key_file=stranger.key),
            "refuses our certificate",
        ),
        "an expired certificate": (
            at("MTLS", **tls, certificate_file=expired.certificate, key_file=expired.key),
            "refuses our certificate",
        ),
        "password": (
            at("SASL", security_protocol="SASL_PLAINTEXT", **password),
            "refuses user reader (SCRAM-SHA-512): wrong name or password",
        ),
        "plain password": (
            at("SASL", security_protocol="SASL_PLAINTEXT", **{**password, "sasl_mechanism": "PLAIN"}),
            "refuses user reader (PLAIN): wrong name or password",
        ),
        "token": (_with(secured.by_token(Role.READER), token("reader", -60)), "refuses our token"),
        "token that is none": (_with(secured.by_token(Role.READER), CANARY), "refuses our token"),
        "mechanism": (
            at("OAUTH", security_protocol="SASL_PLAINTEXT", **password),
            "does not take SCRAM-SHA-512",
        ),
        "plaintext for TLS": (at("TLS"), "hangs up on PLAINTEXT"),
        "plaintext for SASL": (at("SASL"), "hangs up on PLAINTEXT"),
        "TLS for plaintext": (at("SASL", **tls), "hangs up on SSL"),
        "SASL for none": (at("PLAINTEXT", security_protocol="SASL_PLAINTEXT", **password), "wants no SASL"),
    }
    return cases[which]


def _with(kafka: Kafka, text: str) -> Kafka:
    assert kafka.oauth_token_file is not None
    file = kafka.oauth_token_file.with_name(f"{uuid.uuid4().hex}.token")
    file.write_text(text)
    return kafka.model_copy(update={"oauth_token_file": file})


@pytest.mark.parametrize(
    "which",
    [
        "authority",
        "the machine's authorities",
        "expired",
        "host name",
        "no certificate",
        "a stranger's certificate",
        "an expired certificate",
        "password",
        "plain password",
        "token",
        "token that is none",
        "mechanism",
        "plaintext for TLS",
        "plaintext for SASL",
        "TLS for plaintext",
        "SASL for none",
    ],
)
async def test_a_refusal_is_one_line_that_says_what_to_do(secured: SecuredKafka, which: str) -> None:
    kafka, says = wrong(secured, which)
    with pytest.raises(UserError) as error:
        await topics.counts(kafka)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert CANARY not in str(error.value)
    assert error.value.exit_code is Exit.BROKER


async def test_nothing_is_made_up_where_nobody_is_there(secured: SecuredKafka) -> None:
    assert await refusals.why(Kafka(bootstrap_servers="127.0.0.1:1")) is None
    assert await refusals.why(secured.by_password(Role.READER)) is None


@pytest.mark.parametrize("command", [("topics", "check"), ("aggregate",)])
def test_a_wrong_password_ends_a_command_and_a_worker(
    secured: SecuredKafka, furnished: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "password"
    file.write_text(CANARY)
    done = stream_worker(
        tmp_path,
        *command,
        timeout_s=240,
        KAFKA__BOOTSTRAP_SERVERS=secured.server("SASL"),
        KAFKA__PREFIX=furnished,
        KAFKA__SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA__SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA__USERNAME="aggregator",
        KAFKA__PASSWORD_FILE=str(file),
    )
    assert done.returncode == Exit.BROKER, done.stderr
    assert "refuses user aggregator" in done.stderr
    assert CANARY not in done.stderr + done.stdout
    if command[0] == "topics":
        require_mistake(done, Exit.BROKER, "refuses user aggregator")
