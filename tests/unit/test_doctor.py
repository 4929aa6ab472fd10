"""What the doctor thinks of what it sees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stream_worker import topics
from stream_worker.doctor import blobs, clock, gpu, host, interpreters, layout, reach, rights
from stream_worker.doctor.check import Finding, Part, State, holds, ok, within
from stream_worker.doctor.layout import Found
from stream_worker.security.acl import Resource, Role, grants
from stream_worker.settings import Kafka
from stream_worker.topics import Counts

KAFKA = Kafka(partitions=12)
GB = 2**30


def by_create(name: str, **config: str) -> Found:
    topic = next(one for one in topics.TOPICS if one.name == name)
    return Found(topics.partitions_of(topic, KAFKA), 1, config={**topics.config_of(topic, KAFKA), **config})


def topics_with(**changed: Found) -> list[Finding]:
    found = {one.name: by_create(one.name) for one in topics.TOPICS}
    found |= {name.replace("_", "-"): one for name, one in changed.items()}
    return layout.judged(KAFKA, topics.TOPICS, Counts((name, one.partitions) for name, one in found.items()), found)


def test_topics_as_they_are_created_are_well() -> None:
    assert [finding.state for finding in topics_with()] == [State.OK]


@pytest.mark.parametrize(
    ("found", "state", "says"),
    [
        (Found(11, 1), State.FAILED, "too few"),
        (Found(12, 1, leaderless=2), State.FAILED, "no leader"),
        (Found(12, 3, behind=1), State.WARNING, "behind"),
        (Found(12, 0), State.WARNING, "replicas"),
        (by_create("images", **{"max.message.bytes": "1000"}), State.FAILED, "max.message.bytes"),
        (by_create("images", **{"cleanup.policy": "compact"}), State.FAILED, "cleanup.policy"),
        (by_create("images", **{"message.timestamp.type": "CreateTime"}), State.WARNING, "clock"),
        (by_create("images", **{"retention.ms": "1000"}), State.WARNING, "retention.ms"),
        (by_create("images", **{"retention.ms": "-1"}), State.OK, "all"),
        (by_create("images", **{"min.insync.replicas": "2"}), State.FAILED, "nothing can be written"),
        (Found(12, 1), State.NOT_CHECKED, "DESCRIBE_CONFIGS"),
    ],
)
def test_a_topic_that_is_otherwise_is_said(found: Found, state: State, says: str) -> None:
    assert any(finding.state is state and says in finding.seen for finding in topics_with(images=found))


def test_topics_that_are_hidden_are_no_missing_ones() -> None:
    counts = Counts()
    counts.denied = frozenset({"images"})
    findings = layout.judged(KAFKA, [topics.TOPICS[0]], counts, {})
    assert "not for us to see" in findings[0].seen


@pytest.mark.parametrize(
    ("state", "free", "files"),
    [
        (State.OK, 50 * GB, 1000),
        (State.OK, 50 * GB, None),
        (State.WARNING, 4 * GB, 1000),
        (State.FAILED, 2**20, 1000),
        (State.FAILED, 50 * GB, 0),
    ],
)
def test_free_space(state: State, free: int, files: int | None) -> None:
    assert host.space(Path("/data"), free, 100 * GB, files).state is state


def test_a_large_disk_that_is_nearly_full_is_low() -> None:
    assert host.space(Path("/data"), 10 * GB, 1000 * GB, None).state is State.WARNING


def test_shared_memory_of_a_bare_container_is_too_small() -> None:
    assert host.room(64 * 2**20, 8, 120_000_000).state is State.WARNING
    assert host.room(GB, 8, 120_000_000).state is State.OK


@pytest.mark.parametrize(
    ("soft", "state"), [(-1, State.OK), (1024, State.OK), (1000, State.WARNING), (255, State.FAILED)]
)
def test_open_files(soft: int, state: State) -> None:
    assert host.open_files(soft).state is state


@pytest.mark.parametrize(
    ("ahead_s", "state"),
    [(0.4, State.OK), (-1.9, State.OK), (3, State.WARNING), (-600, State.WARNING), (-901, State.FAILED)],
)
def test_a_clock_beside_the_stores(ahead_s: float, state: State) -> None:
    assert clock.difference(ahead_s).state is state


def test_the_kernels_word_on_its_clock() -> None:
    assert clock.kernel(0, 12_000).state is State.OK
    assert clock.kernel(clock.TIME_ERROR, 0).state is State.WARNING
    assert clock.kernel(-1, 0).state is State.NOT_CHECKED


@pytest.mark.parametrize(
    ("kind", "model", "facts", "state"),
    [
        ("auto", "yolo", {"fault": "no NVIDIA driver here"}, State.WARNING),
        ("cuda", "yolo", {"fault": "no NVIDIA driver here"}, State.FAILED),
        ("auto", "sam3d", {"fault": "no NVIDIA driver here"}, State.FAILED),
        ("auto", "yolo", {"name": "H100", "fault": "a product of matrices comes out wrong"}, State.FAILED),
        ("auto", "sam3d", {"name": "T4", "free_mb": 15_000, "total_mb": 15_360}, State.FAILED),
        ("auto", "sam3d", {"name": "H100", "free_mb": 9_000, "total_mb": 80_000}, State.WARNING),
        ("cuda", "sam3d", {"name": "H100", "free_mb": 79_000, "total_mb": 80_000}, State.OK),
    ],
)
def test_a_gpu(kind: str, model: str, facts: dict[str, object], state: State) -> None:
    assert gpu.judged(Part.RECONSTRUCTOR, kind, model, 16_000 if model == "sam3d" else 0, facts).state is state


def test_an_interpreter() -> None:
    def judged(python: str, **modules: str | None) -> Finding:
        return interpreters.judged(Part.DETECTOR, "/python", {"python": python, "modules": modules})

    assert judged("3.10.2", torch="2.5").state is State.OK
    assert judged("3.9.1", torch="2.5").state is State.FAILED
    assert "torch" in judged("3.12.0", torch=None).seen


def test_a_brokers_release_is_told_by_what_it_speaks() -> None:
    apis = dict.fromkeys(reach.NEEDED, 3)
    assert "Kafka 3.9 or later" in reach.speaks(reach.Answer("a:1", {**apis, reach.FETCH: 17})).seen
    assert "Kafka 4.1 or later" in reach.speaks(reach.Answer("a:1", {**apis, reach.FETCH: 99})).seen
    assert reach.speaks(reach.Answer("a:1", {**apis, reach.FETCH: 11})).state is State.WARNING
    assert reach.speaks(reach.Answer("a:1", {reach.FETCH: 17})).state is State.FAILED


def test_every_right_of_a_part_has_a_harmless_request() -> None:
    for part in Part:
        for grant in grants(Role(part)):
            assert type(rights.request(grant, "p-")).__name__ not in ("InitProducerIdRequest", "JoinGroupRequest")


def test_no_lane_has_the_transactional_id_that_is_asked_about() -> None:
    for part in Part:
        for grant in grants(Role(part)):
            if grant.resource is Resource.TRANSACTIONAL_ID:
                asked = rights.request(grant, "p-")._transactional_id
                assert not asked.rpartition(".")[2].isdigit()
                assert grant.allows(grant.resource, asked, grant.operation, "p-")


def test_what_is_denied_is_named() -> None:
    listed = grants(Role.PUBLISHER)
    (denied,) = rights.judged(KAFKA, {Part.PUBLISHER: listed}, dict.fromkeys(listed, frozenset({29})))
    assert denied.state is State.FAILED
    assert "WRITE topic images" in denied.seen
    (well,) = rights.judged(KAFKA, {Part.PUBLISHER: listed}, dict.fromkeys(listed, frozenset({3})))
    assert well.state is State.OK
    (unclear,) = rights.judged(KAFKA, {Part.PUBLISHER: listed}, dict.fromkeys(listed, frozenset({35})))
    assert unclear.state is State.NOT_CHECKED


def test_what_a_store_says_has_an_advice() -> None:
    assert "store.endpoint" in blobs.advice("S3 store x/y can't be reached: refused")
    assert blobs.advice("whatever") == "see the store's own log"


def test_a_check_that_hangs_or_breaks_is_a_finding_that_tells_no_secret() -> None:
    async def hangs() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    async def breaks() -> list[Finding]:
        raise RuntimeError("secret")

    (late,) = asyncio.run(within("a", 0.01, hangs()))
    (broken,) = asyncio.run(within("b", 10, breaks()))
    assert late.state is broken.state is State.FAILED
    assert "secret" not in broken.seen
    assert holds([ok("a", "")])
    assert not holds([ok("a", ""), late])
