"""The roles' ACLs: each resource is there, the page shows the table, and the commands are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stream_worker import topics
from stream_worker.detector import Detector
from stream_worker.reconstructor import Reconstructor
from stream_worker.security import acl
from stream_worker.security.acl import Grant, Operation, Pattern, Resource, Role
from stream_worker.status import GROUPS

PAGE = (Path(__file__).parents[2] / "ops" / "security.md").read_text(encoding="utf-8")
EVERY = {topic.name for topic in topics.TOPICS}


def test_the_page_shows_the_table_in_force() -> None:
    """If this fails: paste what `stream-worker acls --table` prints."""
    table = re.search(r"<!-- acls: .*? -->\n(.*?)<!-- end of acls -->", PAGE, re.DOTALL)
    assert table is not None
    assert table[1] == acl.markdown()


@pytest.mark.parametrize("role", Role)
def test_a_role_has_nothing_on_the_cluster_and_deletes_nothing(role: Role) -> None:
    for grant in acl.grants(role, group="shop"):
        assert grant.resource is not Resource.CLUSTER
        assert grant.operation not in (Operation.DELETE, Operation.ALTER, Operation.ALTER_CONFIGS)
        if grant.resource is Resource.TOPIC:
            assert grant.name in EVERY
            assert grant.pattern is Pattern.LITERAL


@pytest.mark.parametrize(
    ("role", "group"),
    [(Role.DETECTOR, Detector.name), (Role.RECONSTRUCTOR, Reconstructor.name), (Role.AGGREGATOR, "aggregator")],
)
def test_a_worker_reads_what_its_group_reads(role: Role, group: str) -> None:
    granted = acl.grants(role)
    assert Grant(Resource.GROUP, group, Operation.READ) in granted
    for topic in GROUPS[group]:
        assert Grant(Resource.TOPIC, topic, Operation.READ) in granted
    for topic in EVERY:
        assert any(one.allows(Resource.TOPIC, topic, Operation.DESCRIBE) for one in granted)


def test_only_one_group_writes_outcomes_and_state() -> None:
    for topic in (topics.COMPLETED, topics.CHANGELOG, topics.RECONSTRUCTIONS):
        writers = {
            role for role in Role if any(one.allows(Resource.TOPIC, topic, Operation.WRITE) for one in acl.grants(role))
        }
        assert len(writers) == 1, topic


def test_kafkas_rules() -> None:
    read = Grant(Resource.TOPIC, "images", Operation.READ)
    assert read.allows(Resource.TOPIC, "images", Operation.DESCRIBE)
    assert not read.allows(Resource.TOPIC, "images-2", Operation.READ)
    assert not read.allows(Resource.GROUP, "images", Operation.READ)
    assert not read.allows(Resource.TOPIC, "images", Operation.DESCRIBE_CONFIGS)
    assert read.allows(Resource.TOPIC, "p-images", Operation.READ, prefix="p-")
    assert not read.allows(Resource.TOPIC, "images", Operation.READ, prefix="p-")
    lanes = Grant(Resource.TRANSACTIONAL_ID, "detector.images.", Operation.WRITE, Pattern.PREFIXED)
    assert lanes.allows(Resource.TRANSACTIONAL_ID, "detector.images.11", Operation.WRITE)
    assert not lanes.allows(Resource.TRANSACTIONAL_ID, "detector.imagesX", Operation.WRITE)


def test_commands_are_quoted_and_prefixed() -> None:
    lines = acl.commands(Role.READER, "User:a shop", servers="k:9092", prefix="p-", group="shop")
    assert any("--topic p-completed-images" in line and "--operation Read" in line for line in lines)
    assert any("--group shop" in line for line in lines)  # the app's own name: no prefix
    assert all("--allow-principal 'User:a shop'" in line for line in lines)
    [lanes] = [line for line in acl.commands(Role.DETECTOR, "User:d", servers="k:9092") if "--transactional-id" in line]
    assert lanes.endswith("--transactional-id detector.images. --resource-pattern-type prefixed")
