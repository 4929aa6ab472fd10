"""The object store fails under the whole service: it is waited out, no record is blamed, every image comes out whole.

Real processes with stub models on a real Kafka. One service on a real S3 server, behind a proxy whose faults are
switched, goes through one fault after the other; a second one has its store on a disk that is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from stream_worker.audit.run import audit
from stream_worker.events import object_id
from stream_worker.publish import Publisher
from stream_worker.settings import Metrics, Reconstructor, Settings, Store
from stream_worker.up import running
from tests.faults.mounts import tmpfs
from tests.integration.test_cli import free_port
from tests.integration.test_pipeline import Expected, Reader, made_up, require_exactly, settings_for
from tests.photo_server import serving
from tests.servers.faulty_http import Fault, FaultyProxy
from tests.servers.s3 import S3Server

SEED = 20261124
IMAGES = 5
OBJECTS = 2
OUTAGE_S = 60.0
"""For a fault to be felt: a request that hangs has its own time limit, and a lane that has just begun."""
MENDED_S = 120.0
"""For all images to be done once the fault is over: the longest wait between two looks is 15 s."""


@dataclass
class Service:
    """A service that runs, and all that was published to it so far."""

    settings: Settings
    base: str
    expected: Expected = field(default_factory=dict)
    publisher: Publisher = field(init=False)
    reader: Reader = field(init=False)

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Connections of one test's own: between tests their loop stands still, and Kafka's clients with it."""
        async with Publisher(self.settings) as self.publisher, Reader(self.settings) as self.reader:
            yield

    async def publish(self, count: int = IMAGES) -> None:
        """So many new photos, of `OBJECTS` objects each."""
        for number in range(len(self.expected), len(self.expected) + count):
            name = f"image-{number}"
            self.expected[name] = ("complete", frozenset(object_id(name, "live", i) for i in range(OBJECTS)))
            await self.publisher.publish(f"{self.base}/{number}/{OBJECTS}", image_id=name)

    async def outage(self) -> None:
        """Wait until a worker says that it waits for the store, while there is work left."""
        async with asyncio.timeout(OUTAGE_S):
            while await asyncio.to_thread(self._outage_s) == 0:  # noqa: ASYNC110  # another process says so
                await asyncio.sleep(0.1)
        await self.reader.settled(0.5)
        assert len(self.reader.events) < len(self.expected), "the fault came too late to prove anything"

    async def whole(self) -> None:
        """Every image that was ever published is complete, once, nothing is a dead letter, and the audit agrees."""
        await self.reader.until(len(self.expected), MENDED_S)
        require_exactly(self.reader.events, self.expected)
        report = await audit(self.settings, drained=True)
        assert report.holds, report.plain()
        assert not report.dead_letters
        assert await asyncio.to_thread(self._outage_s) == 0, "the gauge goes on though the outage is over"

    def _outage_s(self) -> float:
        """The gauge of the worker that has waited longest."""
        first = self.settings.metrics.port
        assert first is not None
        said = []
        for port in range(first, first + 3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            said += [line for line in lines if line.startswith('stream_worker_outage_seconds{of="store"}')]
        assert len(said) == 3
        return max(float(line.rpartition(" ")[2]) for line in said)


@asynccontextmanager
async def serviced(kafka: str, folder: Path, store: Store) -> AsyncIterator[Service]:
    """A service of one worker a group, with this store."""
    prefix = f"t{uuid.uuid4().hex[:10]}-"
    with serving(made_up) as base:
        settings = settings_for(kafka, prefix, folder, base, detectors=1, reconstructors=1, aggregators=1)
        settings = settings.model_copy(
            update={
                "store": store,
                "reconstructor": Reconstructor(model="tests.stubs:Dots", threads=1, task_timeout_s=5),
                "metrics": Metrics(port=three_free_ports()),
            }
        )
        async with running(settings, on_progress=print, log_dir=folder / "logs") as up:
            yield Service(up.settings, base)


def three_free_ports() -> int:
    """The first of three ports in a row that nobody uses: a worker's metrics each."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for port in range(first, first + 3):
                probe = probes.enter_context(socket.socket())
                probe.bind(("127.0.0.1", port))
            return first


# ---------------------------------------------------------------------- on an S3 server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """An S3 server of this module's own, which is killed and started."""
    with tempfile.TemporaryDirectory(prefix="stream-worker-s3-", ignore_cleanup_errors=True) as folder:
        server = S3Server(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="module")
def proxy(server: S3Server) -> Iterator[FaultyProxy]:
    with FaultyProxy(server.endpoint, SEED) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_s3(
    kafka: str, proxy: FaultyProxy, server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    store = Store(
        url="s3://photos/objects",
        endpoint=proxy.endpoint,
        access_key=server.access_key,
        secret_key=SecretStr(server.secret_key),
        secure=False,
        create_bucket=True,
        timeout_s=2.0,
    )
    async with serviced(kafka, tmp_path_factory.mktemp("service"), store) as service:
        yield service


@pytest.mark.timeout(400)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.BUSY, id="answers 503"),
        pytest.param(Fault.GARBLED, id="answers a broken page"),
        pytest.param(Fault.RESET, id="resets connections"),
        pytest.param(Fault.HANG, id="hangs"),
        pytest.param(Fault.CUT, id="cuts reads short"),
        pytest.param(Fault.FLIP, id="flips bytes of what is read"),
        pytest.param(Fault.DONE_BUT_FAILED, id="does what is put but says that it failed"),
    ],
)
async def test_a_store_that(on_s3: Service, proxy: FaultyProxy, fault: Fault) -> None:
    async with on_s3.in_use():
        with proxy.faulty(fault):
            await on_s3.publish()
            await on_s3.outage()
        assert proxy.landed[fault] >= 2
        await on_s3.whole()


@pytest.mark.timeout(400)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_store_that_is_killed_and_comes_back(on_s3: Service, server: S3Server) -> None:
    async with on_s3.in_use():
        done = len(on_s3.expected)
        publishing = asyncio.create_task(on_s3.publish(40))
        await on_s3.reader.until(done + 3, MENDED_S)
        server.stop()
        try:
            await publishing
            await on_s3.outage()
        finally:
            server.start()
        await on_s3.whole()


# ---------------------------------------------------------------------- in a folder


@pytest.mark.timeout(400)
async def test_a_disk_that_is_full(kafka: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with tmpfs(disk, "1m"):
        async with serviced(kafka, tmp_path, Store(url=str(disk / "store"))) as service, service.in_use():
            await service.publish(1)
            await service.whole()
            fill(disk / "filler")
            await service.publish()
            await service.outage()
            (disk / "filler").unlink()
            await service.whole()
            assert list((disk / "store/.put").iterdir()) == []


def fill(file: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
