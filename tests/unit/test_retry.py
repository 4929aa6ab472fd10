"""The retry policy: bounded, doubling, and short with what kills models."""

from __future__ import annotations

import pytest

from stream_worker.errors import Reason
from stream_worker.retry import LONGEST_DELAY_S, RetryPolicy


def test_delays_double_and_end() -> None:
    policy = RetryPolicy(retries=3, first_delay_s=0.5)
    assert [policy.delay(Reason.FETCH_FAILED, attempts) for attempts in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]


@pytest.mark.parametrize("reason", [Reason.MODEL_CRASHED, Reason.MODEL_TIMEOUT])
def test_what_takes_the_model_down_is_tried_once_more(reason: Reason) -> None:
    policy = RetryPolicy(retries=3, first_delay_s=0.5)
    assert policy.delay(reason, 1) == 0.5
    assert policy.delay(reason, 2) is None
    assert RetryPolicy(retries=0, first_delay_s=0.5).delay(reason, 1) is None


def test_no_delay_grows_without_bound() -> None:
    assert RetryPolicy(retries=100, first_delay_s=0.5).delay(Reason.FETCH_FAILED, 90) == LONGEST_DELAY_S
