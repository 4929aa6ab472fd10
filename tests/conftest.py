"""What every test can ask for: one real Kafka a session, topics of its own, one real S3 server and one PostgreSQL.

All of it starts at the first test that asks, in the main thread (the servers die with the thread that started
them), and ends with the session, also when the session is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import tempfile
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from minio import Minio

from stream_worker.errors import UserError
from stream_worker.local_kafka import LocalKafka
from tests.servers.certificates import available
from tests.servers.postgres import PostgresServer, installed
from tests.servers.s3 import S3Server
from tests.servers.secured_kafka import SecuredKafka

T = TypeVar("T")

BROKER = {
    "group.min.session.timeout.ms": "1000",  # tests kill consumers, and wait for their sessions to end
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",  # ... and for their transactions
    "log.segment.delete.delay.ms": "0",
}


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end in a loop of its own, without touching the one that pytest-asyncio has set."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(work)


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The bootstrap servers of the session's broker: the named one, else a private one, started now."""
    if named := os.environ.get("STREAM_WORKER_KAFKA__BOOTSTRAP_SERVERS"):
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="stream-worker-kafka-", ignore_cleanup_errors=True) as folder:
        broker = LocalKafka(Path(folder), config=BROKER)
        try:
            run(broker.start(timeout_s=120))
        except UserError as error:
            pytest.fail(f"no Kafka to test with: {error}", pytrace=False)
        try:
            yield broker.bootstrap_servers
        finally:
            run(broker.stop())


@pytest.fixture
def prefix(kafka: str) -> Iterator[str]:
    """A prefix for the topics, groups and transactional ids of one test; its topics are deleted afterwards."""
    with _prefix(kafka) as name:
        yield name


@pytest.fixture(scope="module")
def module_prefix(kafka: str) -> Iterator[str]:
    """The same for one run that several tests look at."""
    with _prefix(kafka) as name:
        yield name


@contextlib.contextmanager
def _prefix(kafka: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex[:10]}-"
    yield name
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        run(_delete_topics(kafka, name))


@pytest.fixture(scope="session")
def secured() -> Iterator[SecuredKafka]:
    """The session's Kafka with its authorizer on, and users by password, certificate and token."""
    if not available():
        if os.environ.get("CI"):
            pytest.fail("no openssl to make certificates with (Debian: apt-get install openssl)", pytrace=False)
        pytest.skip("no openssl here (Debian: apt-get install openssl)")
    with tempfile.TemporaryDirectory(prefix="stream-worker-secured-", ignore_cleanup_errors=True) as folder:
        broker = SecuredKafka(Path(folder))
        try:
            run(broker.start(timeout_s=300))
        except UserError as error:
            pytest.fail(f"no secured Kafka to test with: {error}", pytrace=False)
        try:
            yield broker
        finally:
            run(broker.stop())


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """The session's S3 server."""
    with tempfile.TemporaryDirectory(prefix="stream-worker-s3-", ignore_cleanup_errors=True) as folder:
        server = S3Server(Path(folder))
        try:
            server.start()
        except UserError as error:
            pytest.fail(f"no S3 server to test with: {error}", pytrace=False)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A new bucket of the session's S3 server."""
    name = f"t{uuid.uuid4().hex[:10]}"
    Minio(s3.endpoint, s3.access_key, s3.secret_key, secure=False).make_bucket(name)
    return name


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The session's PostgreSQL."""
    programs = installed()
    if programs is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="stream-worker-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder), programs)
        try:
            server.start()
        except UserError as error:
            pytest.fail(f"no PostgreSQL to test with: {error}", pytrace=False)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The name of a new database of the session's PostgreSQL."""
    name = f"t{uuid.uuid4().hex[:10]}"
    with postgres.connect() as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return name


@pytest.fixture(autouse=True)
def _logging_is_as_it_was() -> Iterator[None]:
    """No test sets the service's logging up in this process: later ones would look for lines that go elsewhere."""
    yield
    assert not structlog.get_config()["cache_logger_on_first_use"], "run what sets logging up in a process of its own"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """No garbage is collected while plugins parse sources for their summaries.

    aiokafka leaves futures whose errors nobody read; what logs them, in the middle of CPython 3.11's `ast.parse`, makes
    that raise SystemError (AST constructor recursion depth mismatch), and a run that passed would end with an error.
    """
    gc.collect()
    gc.disable()


async def _delete_topics(bootstrap_servers: str, prefix: str) -> None:
    async with asyncio.timeout(20):
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=10_000)
        await admin.start()
        try:
            if names := [name for name in await admin.list_topics() if name.startswith(prefix)]:
                await admin.delete_topics(names)
        finally:
            await admin.close()
