"""The parts of the host that need no process."""

from __future__ import annotations

from typing import Any

import pytest

from stream_worker.errors import Reason, RecordFault, TransientFault
from stream_worker.models.answer import read_answer
from stream_worker.models.keeper import Backoff, Counters


def test_the_first_restart_is_at_once_and_later_ones_back_off_to_the_cap() -> None:
    backoff = Backoff(first_s=0.5, cap_s=3.0)
    assert [backoff.delay(failures) for failures in range(7)] == [0, 0, 0.5, 1, 2, 3, 3]
    assert backoff.delay(10_000) == 3.0


def test_restarts_are_the_starts_after_the_first() -> None:
    assert [Counters(starts=starts).restarts for starts in (0, 1, 3)] == [0, 0, 2]


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"busy_s": 1},
        {"result": {}},
        {"result": [], "busy_s": 1},
        {"result": None, "busy_s": 1},
        {"result": {}, "busy_s": "x"},
        {"fault": "x", "busy_s": 1},
        {"fault": {"code": "x"}, "busy_s": 1},
        {"error": 3, "busy_s": 1},
        {"error": {"type": "x"}, "busy_s": 1},
    ],
)
def test_what_has_not_the_form_of_an_answer_is_none(header: dict[str, Any]) -> None:
    assert read_answer(header) is None


@pytest.mark.parametrize(
    ("header", "kind", "reason"),
    [
        ({"fault": {"code": "empty_mask", "message": "m"}}, RecordFault, Reason.EMPTY_MASK),
        ({"fault": {"code": "of_its_own", "message": "m"}}, RecordFault, Reason.DETECT_FAILED),
        ({"fault": {"code": "cuda_oom", "message": "m"}}, TransientFault, Reason.DETECT_FAILED),
        ({"error": {"type": "ValueError", "message": "m"}}, TransientFault, Reason.DETECT_FAILED),
    ],
)
def test_a_failure_becomes_a_fault_with_a_reason(
    header: dict[str, Any], kind: type[RecordFault], reason: Reason
) -> None:
    answer = read_answer({**header, "busy_s": 1})
    assert answer is not None
    with pytest.raises(RecordFault) as fault:
        answer.raise_failure(Reason.DETECT_FAILED)
    assert type(fault.value) is kind
    assert fault.value.reason is reason
