"""The run: every hostile case through one detector, in a network namespace. `test_stage.py` starts it.

python -m tests.hostile.stage OUT.json
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stream_worker import topics
from stream_worker.dead_letters import PREFIX
from stream_worker.errors import Reason
from stream_worker.local_kafka import LocalKafka
from stream_worker.local_kafka.ports import free_port
from stream_worker.settings import Detector, Images, Kafka, Local, Log, Metrics, Settings, Stage, Up
from stream_worker.supervisor import Supervisor
from stream_worker.up import plan
from tests.hostile.events import TERMINAL, Record, records
from tests.hostile.names import METADATA, METADATA_V6, PRIVATE, ZONE, NameServer
from tests.hostile.pictures import DETECTED, MOST_PIXELS, pictures
from tests.integration.test_decode import encoded, picture
from tests.integration.test_fetch import HOSTILE, LOOPBACK_FORMS, SECRET, drip, drip_chunk_extension, serving, silent
from tests.integration.test_stage import send_nothing
from tests.photo_server import serving as photos
from tests.unit.images.test_urls import REFUSED

CASE = "case"
"""The header that names a record's case."""
WITHIN_S = 200.0
NOT_EVENTS = frozenset({"empty", "surrogate"})
"""URLs that the schema refuses before anybody reads them, or that no JSON can hold."""


@dataclass
class Seen:
    """What the listeners and the clock saw."""

    connections: list[str] = field(default_factory=list)
    letters: dict[str, dict[str, str]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    most_rss: int = 0


async def main(out: Path) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stream-worker-hostile-")))
        seen = Seen()
        await _listen(stack, seen)
        broker = await stack.enter_async_context(LocalKafka(folder / "broker"))
        servers = {
            name: (await stack.enter_async_context(serving(handler)), reason.value)
            for name, (handler, reason) in ANSWERS.items()
        }
        shown = pictures()
        base = stack.enter_context(photos(lambda path: (200, "image/png", _shown(shown, path))))
        settings = Settings(
            kafka=Kafka(bootstrap_servers=broker.bootstrap_servers, partitions=4),
            local=Local(data_dir=folder),
            images=Images(
                allow_networks=[
                    f"127.0.0.1/32:{port}"
                    for port in (base.rpartition(":")[2], *(server.port for server, _ in servers.values()))
                ],
                max_bytes=1_000_000,
                max_pixels=MOST_PIXELS,
                timeout_s=4.0,
            ),
            detector=Detector(threads=1),
            stage=Stage(retries=1, retry_delay_s=0.1),
            up=Up(detectors=1, reconstructors=0, aggregators=0),
            metrics=Metrics(port=free_port()),
            log=Log(format="console", level="debug"),
        )
        cases = {
            **{f"url: {name}": _asking(name, url, reason) for name, (url, reason) in _urls(broker).items()},
            **{
                f"answer: {name}": _asking(name, f"{server.url}/a.jpg?sig={SECRET}", reason)
                for name, (server, reason) in servers.items()
            },
            **{
                f"picture: {name}": _asking(name, f"{base}/{number}?sig={SECRET}", reason)
                for number, (name, (_, reason)) in enumerate(shown.items())
            },
            **{f"record: {name}": record for name, record in records(f"{base}/good").items()},
        }
        await topics.create(settings.kafka)
        supervisor = await stack.enter_async_context(Supervisor(settings, plan(settings, []), folder / "logs"))
        await supervisor.ready(120)
        (worker,) = supervisor.workers
        first = worker.pid
        assert first is not None
        before = _rss(first)
        await _publish(settings, cases)
        began = time.monotonic()
        async with _watched(first, seen):
            await _read(settings, cases, seen)
        seconds = time.monotonic() - began
        _look_for_secrets(folder / "logs", settings, seen)
        report = {
            "cases": {name: _case(name, record, seen) for name, record in cases.items()},
            "connections": seen.connections,
            "leaks": seen.leaks,
            "grown_mib": (seen.most_rss - before) / 2**20,
            "same_process": (worker.pid, worker.starts) == (first, 1),
            "seconds": seconds,
        }
    out.write_text(json.dumps(report, indent=1))


# ---------------------------------------------------------------------- the cases

ANSWERS = {
    **{name: (handler, reason) for name, (handler, reason, _) in HOSTILE.items()},
    "no answer": (silent, Reason.FETCH_TIMEOUT),
    "drip": (drip, Reason.FETCH_TIMEOUT),
    "drip in a chunk's extension": (drip_chunk_extension, Reason.FETCH_TIMEOUT),
}


def _urls(broker: LocalKafka) -> dict[str, tuple[str, str]]:
    """Name: URL and reason. Whoever connects to port 80 or 443 of any address here is seen."""
    refused = Reason.URL_REFUSED.value
    hosts = {
        **{f"loopback as {host}": host for host in LOOPBACK_FORMS},
        "private": PRIVATE,
        "metadata": METADATA,
        "metadata of another cloud": "100.100.100.200",
        "metadata of a third": "168.63.129.16",
        "metadata of a fourth": "192.0.0.192",
        "metadata, IPv6": f"[{METADATA_V6}]",
        "metadata, mapped": f"[::ffff:{METADATA}]",
        "metadata by NAT64": "[64:ff9b::a9fe:a9fe]",
        "metadata by 6to4": "[2002:a9fe:a9fe::1]",
        "metadata by Teredo": "[2001:0:a9fe:a9fe:0:0:5601:5601]",
        **{name: name for name in ZONE},
    }
    return {
        **{name: (url, refused) for name, url in REFUSED.items() if name not in NOT_EVENTS},
        **{name: (f"http://{host}/{SECRET}.jpg?sig={SECRET}", refused) for name, host in hosts.items()},
        "no such name": (f"http://nowhere.test/{SECRET}", Reason.FETCH_FAILED.value),
        "our own broker": (f"http://{broker.bootstrap_servers}/", refused),
        "our own broker, by name": (f"http://localhost:{broker.bootstrap_servers.rpartition(':')[2]}/", refused),
        "our own store": ("s3://stream-worker/images/secret", refused),
        "https to a private address": (f"https://{PRIVATE}/{SECRET}", refused),
    }


def _asking(name: str, url: str, reason: str) -> Record:
    return Record(orjson.dumps({"version": 1, "image_id": f"{name} {reason}", "url": url}), reason)


def _shown(shown: dict[str, tuple[bytes, str]], path: str) -> bytes:
    which = path.strip("/").partition("?")[0]
    return encoded(picture()) if which == "good" else list(shown.values())[int(which)][0]


# ---------------------------------------------------------------------- the run


async def _listen(stack: AsyncExitStack, seen: Seen) -> None:
    """On the usual ports of every address of this network, and for questions for names."""

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections.append(str(writer.get_extra_info("sockname")))
        writer.close()

    for port in (80, 443):
        for host in ("0.0.0.0", "::"):
            await stack.enter_async_context(await asyncio.start_server(note, host, port))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(NameServer, ("127.0.0.1", 53))
    stack.callback(transport.close)


async def _publish(settings: Settings, cases: dict[str, Record]) -> None:
    topic = settings.kafka.prefix + topics.IMAGES
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers) as producer:
        for name, record in cases.items():
            headers = [*record.headers, (CASE, name.encode())]
            if record.key is None and record.value is None:
                await send_nothing(producer, topic, headers)
                continue
            await producer.send_and_wait(topic, record.value, record.key, headers=headers)


@asynccontextmanager
async def _watched(pid: int, seen: Seen) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            seen.most_rss = max(seen.most_rss, _rss(pid))
            await asyncio.sleep(0.1)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


def _rss(pid: int) -> int:
    """Of the worker and its children."""
    total = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


async def _read(settings: Settings, cases: dict[str, Record], seen: Seen) -> None:
    """Until every case has come out, or the time is over."""
    names = [settings.kafka.prefix + topic for topic in (topics.DETECTIONS, topics.DEAD_LETTERS)]
    consumer = AIOKafkaConsumer(
        *names,
        bootstrap_servers=settings.kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    deadline = time.monotonic() + WITHIN_S
    async with consumer:
        while time.monotonic() < deadline and not all(_came(name, record, seen) for name, record in cases.items()):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    headers = dict(record.headers)
                    if PREFIX + "reason" in headers:
                        told = {key: value.decode() for key, value in headers.items() if key.startswith(PREFIX)}
                        seen.letters[headers[CASE].decode()] = told
                        _look(json.dumps(told), "a dead letter's headers", seen)
                    else:
                        event = orjson.loads(record.value)
                        seen.manifests[event["image_id"]] = event
                        _look(record.value.decode(), "a manifest", seen)


def _came(name: str, record: Record, seen: Seen) -> bool:
    return _image_id(record) in seen.manifests if record.reason == DETECTED else name in seen.letters


def _image_id(record: Record) -> str:
    return str(orjson.loads(record.value or b"")["image_id"])


def _case(name: str, record: Record, seen: Seen) -> dict[str, Any]:
    """What was expected, what came, and how long its attempts took."""
    letter = seen.letters.get(name)
    if letter is None:
        manifest = seen.manifests.get(_image_id(record)) if record.reason == DETECTED else None
        return {"expected": record.reason, "got": None if manifest is None else manifest["status"], "seconds": 0.0}
    first, last = (datetime.fromisoformat(letter[PREFIX + moment]) for moment in ("first_at", "last_at"))
    found: dict[str, Any] = {
        "expected": record.reason,
        "got": letter[PREFIX + "reason"],
        "said": letter[PREFIX + "message"],
        "seconds": (last - first).total_seconds(),
    }
    if record.reason != Reason.INVALID_EVENT.value:
        manifest = seen.manifests.get(_image_id(record), {})
        found["manifest"] = manifest.get("reason", {}).get("code")
    return found


def _look_for_secrets(logs: Path, settings: Settings, seen: Seen) -> None:
    for file in logs.iterdir():
        _look(file.read_text(errors="replace"), file.name, seen)
    with urlopen(f"http://127.0.0.1:{settings.metrics.port}/metrics") as page:
        _look(page.read().decode(), "the metrics", seen)


def _look(text: str, where: str, seen: Seen) -> None:
    found = [secret for secret in (SECRET, ":secret@", TERMINAL[:6]) if secret in text]
    seen.leaks += [f"{secret!r} in {where}" for secret in found]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
