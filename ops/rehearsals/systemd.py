"""The systemd path from the first start to the last stop, on a host of its own: `python -m ops.rehearsals.systemd`.

The units run as they are in ops/systemd, under a real systemd (`host.py`), against a real Kafka and a real S3 server:
set up, start, a photo, a reconstructor killed, a stop in the middle of the work, a start again, a wrong setting.
Exit code 0: all of it went as the units promise; 1: it says what did not.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from minio import Minio

from ops.rehearsals.host import Host, RehearsalError, missing
from stream_worker import topics
from stream_worker.audit.run import audit
from stream_worker.demo.photos import Room, render_rooms
from stream_worker.errors import StreamWorkerError
from stream_worker.events import CompletedImageEvent
from stream_worker.local_kafka import LocalKafka
from stream_worker.publish import Publisher
from stream_worker.results import Waiting, download
from stream_worker.settings import Kafka, Settings, Store
from tests.photo_server import serving
from tests.servers.s3 import S3Server

T = TypeVar("T")
Say = Callable[[str], None]

GROUPS = ("detector", "reconstructor", "aggregator")
UNITS = tuple(f"stream-worker-{group}@0.service" for group in GROUPS)
TARGET = "stream-worker.target"
PHOTO = Room("room.jpg", 3, 640, 480)
IN_WORK = 8
"""Photos that are under way when the host is stopped."""
OUTCOME_S = 300.0
READY_S = 420.0
STOPPED_S = 60.0


async def rehearse(settings: Settings, s3: S3Server, say: Say) -> None:
    """Go through all of it with the broker, topics' prefix and store of `settings`. Raises RehearsalError."""
    with tempfile.TemporaryDirectory() as folder:
        photo = render_rooms(Path(folder), (PHOTO,))[PHOTO.name].read_bytes()
    with serving(lambda _: (200, "image/jpeg", photo)) as photos:
        files = {
            "/etc/stream-worker/stream-worker.toml": (0o644, _settings_file(settings, photos)),
            "/etc/stream-worker/s3.credentials": (0o600, _credentials(s3)),
        }
        with Host(files) as host:
            await _rehearse(settings, host, photos, say)


async def _rehearse(settings: Settings, host: Host, photos: str, say: Say) -> None:
    say(f"a host of its own: {(await _thread(host.systemctl, '--version')).splitlines()[0]}")
    await _thread(host.systemctl, "enable", *UNITS)
    await _timed(say, f"systemctl start {TARGET}: every worker ready", _start(host))
    for line in await _thread(_confined, host):
        say(line)
    async with Publisher(settings) as publisher, Waiting(settings) as waiting:

        async def publish(image_id: str) -> None:
            await publisher.publish(f"{photos}/{PHOTO.name}", image_id=image_id)

        async def outcome(image_id: str) -> CompletedImageEvent:
            return await _within(OUTCOME_S, waiting.wait_for(image_id), f"no outcome of {image_id}", host)

        await publish("first")
        image = await _timed(say, "published a photo, saw it completed", outcome("first"))
        await _require_whole(settings, image, say)

        await _kill(host, say)
        await publish("after-a-kill")
        _require_complete(await outcome("after-a-kill"))
        say("a photo after that: complete")

        ids = [f"in-work-{number}" for number in range(IN_WORK)]
        for image_id in ids:
            await publish(image_id)
        outcomes = [asyncio.create_task(outcome(image_id)) for image_id in ids]
        await asyncio.wait(outcomes, return_when=asyncio.FIRST_COMPLETED)
        await _stop(host, say)
        say(f"{sum(one.done() for one in outcomes)} of {IN_WORK} photos were done when it stood still")
        await _timed(say, f"systemctl start {TARGET}: every worker ready", _start(host))
        for one in outcomes:
            _require_complete(await one)
        say(f"all {IN_WORK} photos: complete")
    report = await audit(settings, drained=True)
    if not report.holds:
        raise RehearsalError(f"the audit found {dict(report.findings.counts)}")
    say(f"audit: {report.images.accepted} images accepted, {report.images.terminal} outcomes, all guarantees hold")
    say(await _thread(_mistake, host))
    await _stop(host, say)


def _settings_file(settings: Settings, photos: str) -> str:
    kafka, store = settings.kafka, settings.store
    host, _, port = photos.removeprefix("http://").partition(":")
    return (
        f'[kafka]\nbootstrap_servers = "{kafka.bootstrap_servers}"\nprefix = "{kafka.prefix}"\n'
        f"partitions = {kafka.partitions}\n\n"
        f'[store]\nurl = "{store.url}"\nendpoint = "{store.endpoint}"\nsecure = false\n\n'
        f'[images]\nallow_networks = ["{host}/32:{port}"]\n'
    )


def _credentials(s3: S3Server) -> str:
    return f"[default]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"


def _confined(host: Host) -> list[str]:
    """What the kernel says of each worker: no root, no capabilities, filtered system calls, read-only files."""
    said = []
    for unit in UNITS:
        pid, *_ = host.show(unit, "MainPID")
        status = dict(line.partition(":")[::2] for line in host.run("cat", f"/proc/{pid}/status").stdout.splitlines())
        user = host.run("stat", "--format=%U", f"/proc/{pid}").stdout.strip()
        mounts = (line.split() for line in host.run("cat", f"/proc/{pid}/mountinfo").stdout.splitlines())
        (root,) = (options.split(",")[0] for _, _, _, _, folder, options, *_ in mounts if folder == "/")
        found = {
            "user": user,
            "capabilities": status["CapEff"].strip().lstrip("0") or "none",
            "new privileges": "no" if status["NoNewPrivs"].strip() == "1" else "yes",
            "seccomp": "filter" if status["Seccomp"].strip() == "2" else "off",
            "root file system": root,
        }
        wanted = ["stream-worker", "none", "no", "filter", "ro"]
        line = f"{unit}: {', '.join(f'{name} {value}' for name, value in found.items())}"
        if list(found.values()) != wanted:
            raise RehearsalError(line)
        said.append(line)
    pid, *_ = host.show(UNITS[0], "MainPID")
    keys = f"/proc/{pid}/root/run/credentials/{UNITS[0]}/s3"
    access = host.run("stat", "--format=%U %a", keys, "/etc/stream-worker/s3.credentials").stdout.splitlines()
    if access != ["stream-worker 400", "root 600"]:
        raise RehearsalError(f"who may read the store's keys: {access}")
    return [*said, f"the store's keys: {access[0]} in the worker's sight alone, {access[1]} on the disk"]


async def _start(host: Host) -> None:
    """Start the target: it is up when every worker has said that it is ready, at its first start."""
    await _thread(host.systemctl, "start", TARGET)
    for unit in UNITS:
        state, restarts = await _thread(host.show, unit, "ActiveState", "NRestarts")
        if (state, restarts) != ("active", "0"):
            raise RehearsalError(f"{unit}: {state} after {restarts} restarts\n{await _thread(host.logs)}")


async def _require_whole(settings: Settings, image: CompletedImageEvent, say: Say) -> None:
    _require_complete(image)
    plys = [one.ply for one in image.objects if one.ply is not None]
    if not plys:
        raise RehearsalError("the photo has furniture, and no object came out")
    data = await download(settings, plys[0])
    say(f"{image.image_id}: {image.status}, {len(image.objects)} objects; one PLY read, {len(data)} bytes")


def _require_complete(image: CompletedImageEvent) -> None:
    if image.status != "complete":
        raise RehearsalError(f"{image.image_id} is {image.status}: {image.model_dump_json(exclude_none=True)[:2000]}")


async def _kill(host: Host, say: Say) -> None:
    unit = UNITS[1]
    before, *_ = await _thread(host.show, unit, "MainPID")
    started = time.monotonic()
    await _thread(host.systemctl, "kill", "--signal=KILL", "--kill-who=main", unit)
    while True:
        pid, state, restarts = await _thread(host.show, unit, "MainPID", "ActiveState", "NRestarts")
        if state == "active" and pid not in ("0", before):
            break
        if time.monotonic() - started > READY_S:
            raise RehearsalError(f"{unit} is {state} {READY_S:.0f} s after SIGKILL\n{host.logs()}")
        await asyncio.sleep(0.2)
    took = time.monotonic() - started
    say(f"{unit} killed with SIGKILL: restarted by systemd (NRestarts={restarts}), ready again [{took:.1f} s]")


async def _stop(host: Host, say: Say) -> None:
    """Stop the target; every worker must drain by itself, within its unit's time."""
    started = time.monotonic()
    await _thread(host.systemctl, "stop", TARGET, *UNITS)
    took = time.monotonic() - started
    for unit in UNITS:
        state, result, code, limit = await _thread(
            host.show, unit, "ActiveState", "Result", "ExecMainStatus", "TimeoutStopUSec"
        )
        if (state, result, code) != ("inactive", "success", "0"):
            raise RehearsalError(f"{unit} after its stop: {state}, {result}, exit code {code}\n{host.logs()}")
    left = (await _thread(host.run, "pgrep", "--list-full", "--euid", "stream-worker")).stdout.strip()
    if left:
        raise RehearsalError(f"left behind: {left}")
    say(f"systemctl stop {TARGET}: all drained, exit code 0, no process left (TimeoutStopSec={limit}) [{took:.1f} s]")


def _mistake(host: Host) -> str:
    """A wrong setting must end in a unit that has failed and says why, and not in one that starts for ever."""
    unit = "stream-worker-aggregator@1.service"
    host.write("/etc/stream-worker/stream-worker-aggregator-1.env", "STREAM_WORKER_STAGE__DRAIN_S=-1\n")
    host.run("systemctl", "start", unit)
    state, code, restarts = host.show(unit, "ActiveState", "ExecMainStatus", "NRestarts")
    if (state, code, restarts) != ("failed", "2", "0"):
        raise RehearsalError(f"{unit}, wrong setting: {state}, exit {code}, {restarts} restarts\n{host.logs()}")
    said = host.run("tail", "-n", "1", f"/run/logs/{unit}").stdout.strip()
    return f"{unit} with a wrong setting: failed, exit code 2, not restarted: {said}"


async def _timed(say: Say, what: str, work: Coroutine[Any, Any, T]) -> T:
    started = time.monotonic()
    result = await work
    say(f"{what} [{time.monotonic() - started:.1f} s]")
    return result


async def _within(seconds: float, work: Coroutine[Any, Any, T], otherwise: str, host: Host) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise RehearsalError(f"{otherwise} after {seconds:.0f} s\n{await _thread(host.logs)}") from None


async def _thread(work: Callable[..., T], *arguments: str) -> T:
    return await asyncio.to_thread(work, *arguments)


async def prepare(bootstrap_servers: str, prefix: str, s3: S3Server, bucket: str) -> Settings:
    """The topics; the settings of whoever publishes and reads."""
    settings = Settings(
        kafka=Kafka(bootstrap_servers=bootstrap_servers, prefix=prefix, partitions=3),
        store=Store(
            url=f"s3://{bucket}/results",
            endpoint=s3.endpoint,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            secure=False,
        ),
    )
    await topics.create(settings.kafka)
    return settings


async def _alone(s3: S3Server, folder: Path) -> None:
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", flush=True)

    broker = LocalKafka(folder / "kafka")
    await broker.start()
    try:
        bucket = "stream-worker"
        Minio(s3.endpoint, s3.access_key, s3.secret_key, secure=False).make_bucket(bucket)
        say(f"Kafka at {broker.bootstrap_servers}, an S3 server at {s3.endpoint}")
        await rehearse(await prepare(broker.bootstrap_servers, "", s3, bucket), s3, say)
    finally:
        await broker.stop()


def main() -> int:
    """Rehearse with a Kafka and an S3 server of its own."""
    why = missing()
    if why is not None:
        print(f"can't be rehearsed here: {why}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="stream-worker-rehearsal-", ignore_cleanup_errors=True) as folder:
        s3 = S3Server(Path(folder) / "s3")
        s3.start()
        try:
            asyncio.run(_alone(s3, Path(folder)))
        except (RehearsalError, StreamWorkerError) as error:
            print(f"rehearsal failed: {error}", file=sys.stderr)
            return 1
        finally:
            s3.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
