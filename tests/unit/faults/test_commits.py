"""What a coordinator writes down, byte by byte as Kafka's OffsetCommitKey.json and OffsetCommitValue.json have it."""

from __future__ import annotations

import struct

from tests.faults.commits import moved_at, name, offset

KEY = b"\x00\x01" + b"\x00\x08detector" + b"\x00\x06images" + b"\x00\x00\x00\x05"


def test_a_key_names_a_partition_of_a_group() -> None:
    assert name(KEY) == ("detector", "images", 5)
    assert name(b"\x00\x00" + KEY[2:]) == ("detector", "images", 5)


def test_a_key_of_the_groups_members_does_not() -> None:
    assert name(b"\x00\x02\x00\x08detector") is None
    assert name(None) is None


def test_the_offset_is_where_every_version_has_it() -> None:
    for version in (0, 1, 2, 3, 4):
        assert offset(struct.pack(">hq", version, 1234567890123) + b"whatever follows") == 1234567890123


def test_a_partition_has_moved_with_the_first_commit_beyond_its_position() -> None:
    source = ("images", 5)
    commits = {("detector", source): [(1.0, 7), (2.5, 7), (4.0, 9), (5.0, 12)]}
    assert moved_at(commits, "detector", source, 7) == 4.0
    assert moved_at(commits, "detector", source, 12) is None
    assert moved_at(commits, "reconstructor", source, 0) is None
