"""Where no broker is named: the private one of `local.data_dir`, found or started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from stream_worker.errors import Exit, UserError
from stream_worker.local_kafka import LocalKafka, status
from stream_worker.settings import Settings, servers


def kafka_folder(settings: Settings) -> Path:
    """Where the private broker keeps its data."""
    return settings.local.data_dir / "kafka"


def with_broker(settings: Settings, bootstrap_servers: str) -> Settings:
    """The same settings, with this broker. Raises UserError where that is none."""
    try:
        servers(bootstrap_servers)
    except ValueError as error:
        raise UserError(f"--broker: {error}") from None
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap_servers})
    return settings.model_copy(update={"kafka": kafka})


def connected(settings: Settings) -> Settings:
    """The settings with a broker in them: the one that is named, or the private one that runs.

    Raises UserError where neither is.
    """
    if settings.kafka.bootstrap_servers is not None:
        return settings
    _open(settings)
    running = status(kafka_folder(settings))
    if running is None:
        raise UserError(
            "no broker is named and no local one runs: start it with `stream-worker up` or "
            "`stream-worker kafka start`, or set kafka.bootstrap_servers",
            Exit.BROKER,
        )
    return with_broker(settings, running.bootstrap_servers)


def _open(settings: Settings) -> None:
    """The private broker asks nobody who they are: settings that say otherwise are meant for another one."""
    if settings.kafka.security_protocol != "PLAINTEXT":
        raise UserError("kafka.security_protocol is set, but no broker is named: kafka.bootstrap_servers", Exit.USAGE)


@asynccontextmanager
async def started(settings: Settings, progress: Callable[[str], None]) -> AsyncIterator[Settings]:
    """The settings with a broker in them; a private one is started where there is none, and stopped at the end."""
    if settings.kafka.bootstrap_servers is not None or status(kafka_folder(settings)) is not None:
        yield connected(settings)
        return
    _open(settings)
    broker = LocalKafka(kafka_folder(settings), settings.local.port, progress=progress)
    progress("starting a private Kafka")
    await broker.start()
    try:
        progress(f"Kafka answers at {broker.bootstrap_servers}")
        yield with_broker(settings, broker.bootstrap_servers)
    finally:
        await broker.stop()
