"""The model's process under faults, in a real worker on a real Kafka: a fault costs its object, and nobody else.

One worker goes through all of them, each the label of an object among sound ones (`FaultyDots` in `tests/stubs.py`
stages it), and a test for each looks at what came of it. Nothing here is random.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from aiokafka import AIOKafkaProducer

from stream_worker import lifeline, metrics, topics
from stream_worker.contract import decode, encode
from stream_worker.dead_letters import PREFIX
from stream_worker.detector import Detector
from stream_worker.errors import Reason
from stream_worker.events import (
    DetectionEvent,
    ImageEvent,
    Mask,
    Model,
    ObjectEvent,
    PhotoRef,
    ReconstructionEvent,
    object_id,
    utc_now,
)
from stream_worker.geometry import gaussians, masks
from stream_worker.models.keeper import YOUNG
from stream_worker.models.process import ModelProcess
from stream_worker.reconstructor import Reconstructor
from stream_worker.records import Received
from stream_worker.settings import Detector as DetectorSettings
from stream_worker.settings import Images, Kafka, Settings, environment
from stream_worker.settings import Reconstructor as ReconstructorSettings
from stream_worker.settings import Stage as StageSettings
from stream_worker.settings import Store as StoreSettings
from stream_worker.stage import Stage
from stream_worker.store import open_store
from tests.conftest import run
from tests.integration.test_stage import read
from tests.photo_server import serving
from tests.staging import running
from tests.stubs import SIDE, Garbled, photo

ROOT = Path(__file__).parents[2]
SESSION_S = 5.0
TASK_S = 10.0
"""Twice the session, and enough for a sound object on a machine with far too much to do."""
LOAD_S = 12.0
RETRIES = 2
DEAD_WITHIN_S = 2.0
NEXT_WITHIN_S = 5.0

BAD_GEOMETRY = [
    "nan_geometry",
    "infinite_geometry",
    "negative_size",
    "no_points",
    "no_points_behind_a_clean_header",
    "no_ply",
    "fewer_points_than_said",
    "nan_in_the_ply",
]
WRONG_FORM = ["no_geometry", "half_a_character", "a_text_larger_than_an_event", "says_the_unspeakable"]
FAULTS = [
    "sigkill",
    "once:sigkill",
    "slow",
    "sigsegv",
    "hang",
    "no_frame",
    *BAD_GEOMETRY,
    *WRONG_FORM,
    "grow",
    "cuda_oom",
    "once:cuda_oom",
    "once:sticky_cuda_error",
    "once:hang_in_the_next_load",
]
SOUND = [f"sound-{number}" for number in range(len(FAULTS))]
LABELS = [label for pair in zip(FAULTS, SOUND, strict=True) for label in pair]


@dataclass
class Children:
    """What the models' processes did, and when, by the clock of this process."""

    tasks: list[tuple[float, int, str]] = field(default_factory=list)  # when, pid, label
    born: dict[int, float] = field(default_factory=dict)
    ready: dict[int, float] = field(default_factory=dict)
    dead: dict[int, float] = field(default_factory=dict)

    def of(self, label: str) -> list[tuple[float, int]]:
        """When it was given to which process."""
        return [(at, pid) for at, pid, given in self.tasks if given == label]


@dataclass
class Seen:
    """What came of it all."""

    sent: dict[str, tuple[bytes, bytes]]
    results: dict[str, list[ReconstructionEvent]]
    letters: dict[str, list[Received]]
    blobs: dict[str, bytes]
    children: Children
    assigned: int
    ends: Mapping[str, float]

    def failed(self, label: str, reason: Reason, attempts: int) -> None:
        """Exactly one failed result, and the object as it was sent among the dead letters."""
        assert [(one.status, one.reason.code if one.reason else None) for one in self.results[label]] == [
            ("failed", reason.value)
        ]
        (letter,) = self.letters[label]
        headers = dict(letter.headers)
        assert (letter.key, letter.value) == self.sent[label]
        assert headers["of-the-sender"] == b"\xff\x00"
        assert headers[PREFIX + "reason"] == reason.value.encode()
        assert headers[PREFIX + "stage"] == b"reconstructor"
        assert headers[PREFIX + "attempts"] == str(attempts).encode()

    def made(self, label: str) -> None:
        """Exactly one result, whose PLY is whole, and no dead letter."""
        (one,) = self.results[label]
        assert one.status == "reconstructed"
        assert label not in self.letters
        assert one.ply is not None
        assert one.geometry is not None
        dots = gaussians.from_ply(self.blobs[one.ply.key])
        gaussians.check(dots)
        assert len(dots) == one.geometry.gaussians


@pytest.fixture(scope="module")
def seen(kafka: str, module_prefix: str) -> Iterator[Seen]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, at_home(Path(folder)) as patch:
        yield run(asyncio.wait_for(_all_faults(settings_for(kafka, module_prefix, Path(folder)), patch), 240))


@contextmanager
def at_home(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """The models' processes find the tests, and a home to remember things in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield patch


def settings_for(kafka: str, prefix: str, folder: Path) -> Settings:
    return Settings(
        kafka=Kafka(
            bootstrap_servers=kafka,
            prefix=prefix,
            partitions=3,
            session_timeout_ms=int(SESSION_S * 1000),
            rebalance_timeout_ms=15_000,
        ),
        store=StoreSettings(url=str(folder / "store")),
        reconstructor=ReconstructorSettings(
            model="tests.stubs:FaultyDots",
            threads=1,
            task_timeout_s=TASK_S,
            load_timeout_s=LOAD_S,
            memory_limit_mb=130,
        ),
        stage=StageSettings(drain_s=5, retries=RETRIES, retry_delay_s=0.05),
    )


async def _all_faults(settings: Settings, patch: pytest.MonkeyPatch) -> Seen:
    await topics.create(settings.kafka)
    sent = await send_objects(settings, LABELS)
    assigned = 0
    on_assigned = Stage.on_partitions_assigned

    async def counted(stage: Stage, partitions: Any) -> None:
        nonlocal assigned
        assigned += 1
        await on_assigned(stage, partitions)

    patch.setattr(Stage, "on_partitions_assigned", counted)
    children = watched(patch)
    before = ends()
    async with running(Reconstructor(settings), settings):
        results = await read(settings, topics.RECONSTRUCTIONS, len(LABELS), within_s=200)
        failed = sum(decode(ReconstructionEvent, record.value).status == "failed" for record in results)
        letters = await read(settings, topics.DEAD_LETTERS, failed)
        during = assigned
        ended = {cause: count - before[cause] for cause, count in ends().items()}
    by_label: dict[str, list[ReconstructionEvent]] = defaultdict(list)
    for record in results:
        one = decode(ReconstructionEvent, record.value)
        by_label[one.label].append(one)
    dead: dict[str, list[Received]] = defaultdict(list)
    for letter in letters:
        dead[decode(ObjectEvent, letter.value).label].append(letter)
    return Seen(sent, by_label, dict(dead), await plys(settings), children, during, ended)


async def send_objects(settings: Settings, labels: list[str]) -> dict[str, tuple[bytes, bytes]]:
    """One photo with an object for each label, in their order; key and value of each."""
    async with open_store(settings) as store:
        blob = await store.put_content("images", photo(1, len(labels)), "image/png")
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:20, 10:20] = True
    now = utc_now()
    sent = {}
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers) as producer:
        for index, label in enumerate(labels):
            identity = object_id("photo", "live", index)
            event = ObjectEvent(
                object_id=identity,
                image_id="photo",
                run="live",
                index=index,
                count=len(labels),
                image=PhotoRef(**blob.model_dump(), width=SIDE, height=SIDE),
                label=label,
                confidence=0.5,
                box=[10, 10, 20, 20],
                mask=Mask(**masks.encode(mask)),
                area_px=100,
                detector=Model(name="by hand"),
                published_at=now,
                detected_at=now,
                deadline_at=now + timedelta(hours=1),
            )
            sent[label] = identity.encode(), encode(event)
            await producer.send_and_wait(
                settings.kafka.prefix + topics.OBJECTS,
                sent[label][1],
                key=sent[label][0],
                partition=index % settings.kafka.partitions,
                headers=[("of-the-sender", b"\xff\x00")],
            )
    return sent


def watched(patch: pytest.MonkeyPatch) -> Children:
    """Look on as processes are started and given tasks; kill the one that is first given `slow`, in its task."""
    children = Children()
    spawn, task = ModelProcess.spawn, ModelProcess.task
    watching = set()

    async def death(pid: int) -> None:
        fd = os.pidfd_open(pid)
        try:
            await lifeline.gone(fd, None)
            children.dead[pid] = time.monotonic()
        finally:
            os.close(fd)

    async def watched_spawn(name: str, *arguments: Any, **more: Any) -> ModelProcess:
        born = time.monotonic()
        process = await spawn(name, *arguments, **more)
        if name == "reconstructor":
            children.born[process.pid] = born
            process.initialised.add_done_callback(
                lambda done: done.exception() or children.ready.setdefault(process.pid, time.monotonic())
            )
            watching.add(asyncio.create_task(death(process.pid)))
        return process

    async def watched_task(process: ModelProcess, number: int, given: Mapping[str, Any], payload: bytes) -> Any:
        if label := given.get("label"):
            if label == "slow" and not children.of("slow"):
                asyncio.get_running_loop().call_later(0.3, os.kill, process.pid, signal.SIGKILL)
            children.tasks.append((time.monotonic(), process.pid, label))
        return await task(process, number, given, payload)

    patch.setattr(ModelProcess, "spawn", watched_spawn)
    patch.setattr(ModelProcess, "task", watched_task)
    return children


def ends() -> dict[str, float]:
    """How often a reconstructor's model has ended, by cause, in the life of this process."""
    return {
        cause: metrics.REGISTRY.get_sample_value(
            "stream_worker_model_ends_total", {"model": "reconstructor", "cause": cause}
        )
        or 0.0
        for cause in ("crash", "timeout", "recycle", "failed_start")
    }


async def plys(settings: Settings) -> dict[str, bytes]:
    root = Path(settings.store.url or "")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.ply")}


# ---------------------------------------------------------------------- of the process


def test_sigkill_at_every_attempt_is_poison(seen: Seen) -> None:
    seen.failed("sigkill", Reason.MODEL_CRASHED, attempts=2)
    assert len(seen.children.of("sigkill")) == 2


def test_sigkill_at_the_first_attempt_costs_that_attempt(seen: Seen) -> None:
    seen.made("once:sigkill")
    assert len(seen.children.of("once:sigkill")) == 2


def test_sigkill_from_outside_costs_the_object_in_work_an_attempt(seen: Seen) -> None:
    seen.made("slow")
    (_, killed), (_, second) = seen.children.of("slow")
    assert killed != second
    assert killed in seen.children.dead


def test_sigsegv(seen: Seen) -> None:
    seen.failed("sigsegv", Reason.MODEL_CRASHED, attempts=2)


def test_a_hang_in_native_code_that_holds_the_gil(seen: Seen) -> None:
    seen.failed("hang", Reason.MODEL_TIMEOUT, attempts=2)
    given = seen.children.of("hang")
    assert len({pid for _, pid in given}) == 2, "the second attempt is another process's"
    for at, pid in given:
        lived = seen.children.dead[pid] - at
        assert SESSION_S < TASK_S <= lived + 0.1
        assert lived <= TASK_S + DEAD_WITHIN_S


def test_a_hang_while_loading(seen: Seen) -> None:
    """It is no object's fault: whoever waits for the model waits on."""
    seen.made("once:hang_in_the_next_load")
    never_ready = [pid for pid in seen.children.born if pid not in seen.children.ready and pid in seen.children.dead]
    assert never_ready
    for pid in never_ready:
        assert seen.children.dead[pid] - seen.children.born[pid] <= LOAD_S + DEAD_WITHIN_S
    assert seen.ends["failed_start"] == len(never_ready)


def test_output_that_is_no_frame(seen: Seen) -> None:
    seen.failed("no_frame", Reason.MODEL_CRASHED, attempts=2)


def test_rss_above_the_limit(seen: Seen) -> None:
    seen.made("grow")
    ((at, pid),) = seen.children.of("grow")
    assert pid in seen.children.dead
    assert not [label for given, by, label in seen.children.tasks if by == pid and given > at]


def test_cuda_out_of_memory_is_tried_again(seen: Seen) -> None:
    seen.failed("cuda_oom", Reason.RECONSTRUCT_FAILED, attempts=1 + RETRIES)
    assert len(seen.children.of("cuda_oom")) == 1 + RETRIES
    seen.made("once:cuda_oom")


def test_a_cuda_error_that_sticks_costs_the_process_and_an_attempt(seen: Seen) -> None:
    seen.made("once:sticky_cuda_error")
    (_, poisoned), (_, second) = seen.children.of("once:sticky_cuda_error")
    assert poisoned != second


# ---------------------------------------------------------------------- of the answer


@pytest.mark.parametrize("label", BAD_GEOMETRY)
def test_geometry_that_can_not_be(seen: Seen, label: str) -> None:
    """The model would compute it again: one attempt."""
    seen.failed(label, Reason.BAD_GEOMETRY, attempts=1)
    assert len(seen.children.of(label)) == 1


@pytest.mark.parametrize("label", WRONG_FORM)
def test_an_answer_of_the_wrong_form(seen: Seen, label: str) -> None:
    seen.failed(label, Reason.RECONSTRUCT_FAILED, attempts=1)


def test_nothing_that_can_not_be_is_kept(seen: Seen) -> None:
    referenced = {one.ply.key for results in seen.results.values() for one in results if one.ply}
    assert seen.blobs.keys() == referenced
    assert len(set(seen.blobs.values())) == 1, "all sound objects have the same dots"


# ---------------------------------------------------------------------- of the worker


def test_the_others_are_reconstructed(seen: Seen) -> None:
    assert seen.results.keys() == set(LABELS)
    for label in SOUND:
        seen.made(label)


def test_the_worker_never_leaves_its_group(seen: Seen) -> None:
    assert seen.assigned == 1


def test_the_next_object_starts_soon_after_a_death(seen: Seen) -> None:
    children = seen.children
    working = {pid for _, pid, _ in children.tasks}
    checked = 0
    for pid, died in children.dead.items():
        after = [(at, by) for at, by, _ in children.tasks if at > died]
        if pid in working and after and (began := children.born[after[0][1]]) >= died:
            at, by = after[0]
            between = [born for other, born in children.born.items() if died <= born <= at and other != by]
            if not between:  # else a load has hung
                assert at - died <= children.ready[by] - began + NEXT_WITHIN_S
                checked += 1
    assert checked >= 8, "so many deaths were staged in tasks"


def _out_of_memory_when_old(seen: Seen) -> int:
    """How often the GPU's memory was not enough in a process that had done its share."""
    failed = {*seen.children.of("cuda_oom"), seen.children.of("once:cuda_oom")[0]}
    given = [(at, pid) for at, pid, _ in seen.children.tasks]
    return sum(sum(by == pid and at <= when for at, by in given) > YOUNG for when, pid in failed)


def test_every_death_is_counted_by_its_cause_and_there_is_no_other(seen: Seen) -> None:
    """An impossible answer does not cost the process, nor does CUDA out of memory in a young one."""
    assert seen.ends["timeout"] == 2
    assert seen.ends["recycle"] == 2 + _out_of_memory_when_old(seen)  # grown, and a CUDA error that sticks
    # sigkill 2, once 1, from outside 1, sigsegv 2, no frame 2, before the load that hangs 1
    assert seen.ends["crash"] == 9


# ---------------------------------------------------------------------- on their own


async def test_a_parent_that_is_killed_takes_its_hung_child_along(kafka: str, prefix: str, tmp_path: Path) -> None:
    """Then the next worker does what is left, once."""
    settings = settings_for(kafka, prefix, tmp_path)
    labels = ["sound-0", "once:hang", "sound-1", "sound-2"]
    with at_home(tmp_path):
        await topics.create(settings.kafka)
        await send_objects(settings, labels)
        with (tmp_path / "worker.log").open("wb") as log:
            worker = await asyncio.create_subprocess_exec(
                *lifeline.tied([sys.executable, "-m", "stream_worker", "reconstruct"]),
                env={**os.environ, **environment(settings)},
                stdout=log,
                stderr=log,
            )
        children: list[psutil.Process] = []
        try:
            await until(lambda: (tmp_path / "once:hang").exists() or worker.returncode is not None)
            assert worker.returncode is None, (tmp_path / "worker.log").read_text()
            children = psutil.Process(worker.pid).children(recursive=True)
            assert len(children) == 2, "the model and the decoder"
            worker.kill()
            await asyncio.wait_for(until(lambda: not any(alive(child) for child in children)), 10)
        finally:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
            for child in filter(alive, children):
                child.kill()
        async with running(Reconstructor(settings), settings):
            results = await read(settings, topics.RECONSTRUCTIONS, len(labels), within_s=60)
    events = [decode(ReconstructionEvent, record.value) for record in results]
    assert sorted((one.label, one.status) for one in events) == sorted((label, "reconstructed") for label in labels)


async def test_what_a_detector_can_not_have_found_fails_its_photo_alone(
    kafka: str, prefix: str, tmp_path: Path
) -> None:
    settings = settings_for(kafka, prefix, tmp_path)
    wrong = range(Garbled.NAN, Garbled.NO_LABEL + 1)
    counts = [3, *wrong, 2, 0]

    def answer(path: str) -> tuple[int, str, bytes]:
        return 200, "image/png", photo(1, int(path.strip("/")))

    with serving(answer) as base, at_home(tmp_path):
        settings = settings.model_copy(
            update={
                "images": Images(allow_networks=[f"127.0.0.1/32:{base.rpartition(':')[2]}"]),
                "detector": DetectorSettings(model="tests.stubs:Garbled", threads=1),
            }
        )
        await topics.create(settings.kafka)
        sent = {}
        async with AIOKafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers) as producer:
            for count in counts:
                sent[count] = encode(ImageEvent(image_id=str(count), url=f"{base}/{count}"))
                await producer.send_and_wait(settings.kafka.prefix + topics.IMAGES, sent[count], key=b"%d" % count)
        async with running(Detector(settings), settings):
            manifests = await read(settings, topics.DETECTIONS, len(counts), within_s=60)
            letters = await read(settings, topics.DEAD_LETTERS, len(wrong))
            objects = await read(settings, topics.OBJECTS, 5)
    events = {int(one.image_id): one for one in (decode(DetectionEvent, record.value) for record in manifests)}
    assert {count: (one.status, len(one.objects)) for count, one in events.items()} == {
        count: ("failed", 0) if count in wrong else ("detected", count) for count in counts
    }
    assert {one.reason.code for one in events.values() if one.reason} == {"detect_failed"}
    assert sorted(letter.value or b"" for letter in letters) == sorted(sent[count] for count in wrong)
    assert {dict(letter.headers)[PREFIX + "attempts"] for letter in letters} == {b"1"}
    assert len(objects) == 5


async def until(condition: Any) -> None:
    """Wait for what no event tells of; pytest's own time limit is the deadline."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
