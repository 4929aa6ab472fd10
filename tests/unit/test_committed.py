"""What an answer about committed offsets says, and what it must not be taken to say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
)

from stream_worker.committed import ELSEWHERE, read

ONE, TWO = TopicPartition("t", 0), TopicPartition("t", 1)


def answer(*partitions: tuple[int, int, str, int], error: int = 0) -> Any:
    return SimpleNamespace(topics=[("t", list(partitions))] if partitions else [], error_code=error)


def test_what_was_never_committed_is_left_out() -> None:
    found = read(answer((0, 7, "said", 0), (1, -1, "", 0)), [ONE, TWO])
    assert {source: (one.offset, one.metadata) for source, one in found.items()} == {ONE: (7, "said")}


@pytest.mark.parametrize(
    ("code", "error"),
    [(14, GroupLoadInProgressError), (16, NotCoordinatorForGroupError), (30, GroupAuthorizationFailedError)],
)
def test_an_error_of_the_whole_answer_is_no_answer(code: int, error: type[KafkaError]) -> None:
    with pytest.raises(error):
        read(answer(error=code), [ONE])
    assert (error in ELSEWHERE) == (code in (14, 16))


def test_an_error_of_one_partition_is_no_answer() -> None:
    with pytest.raises(NotCoordinatorForGroupError):
        read(answer((0, 7, "", 0), (1, -1, "", 16)), [ONE, TWO])


def test_silence_about_a_partition_is_no_answer() -> None:
    with pytest.raises(KafkaError, match="says nothing of"):
        read(answer((0, 7, "", 0)), [ONE, TWO])
