"""The retry policy: bounded, doubling, and short with what kills models."""

from __future__ import annotations

import pytest

from stream_worker.errors import Reason
from stream_worker.retry import LONGEST_DELAY_S, RetryPolicy, jittered, outage_delay


def test_delays_double_and_end() -> None:
    policy = RetryPolicy(retries=3, first_delay_s=0.5, deadline_s=1000)
    assert [policy.delay(Reason.FETCH_FAILED, attempts, 0) for attempts in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]


@pytest.mark.parametrize("reason", [Reason.MODEL_CRASHED, Reason.MODEL_TIMEOUT])
def test_what_takes_the_model_down_is_tried_once_more(reason: Reason) -> None:
    policy = RetryPolicy(retries=3, first_delay_s=0.5, deadline_s=1000)
    assert policy.delay(reason, 1, 0) == 0.5
    assert policy.delay(reason, 2, 0) is None
    assert RetryPolicy(retries=0, first_delay_s=0.5, deadline_s=1000).delay(reason, 1, 0) is None


def test_no_delay_grows_without_bound() -> None:
    policy = RetryPolicy(retries=100, first_delay_s=0.5, deadline_s=1000)
    assert policy.delay(Reason.FETCH_FAILED, 90, 0) == LONGEST_DELAY_S


def test_no_attempt_begins_after_the_deadline() -> None:
    policy = RetryPolicy(retries=100, first_delay_s=8, deadline_s=20)
    assert policy.delay(Reason.FETCH_TIMEOUT, 1, elapsed_s=5) == 8
    assert policy.delay(Reason.FETCH_TIMEOUT, 2, elapsed_s=15) == 5
    assert policy.delay(Reason.FETCH_TIMEOUT, 3, elapsed_s=20) is None


def test_an_outage_is_looked_at_for_ever_and_not_too_seldom() -> None:
    delays = [outage_delay(waits) for waits in range(1000)]
    assert delays[:3] == [0.2, 0.4, 0.8]
    assert max(delays) == delays[-1] == 10.0


def test_jitter_halves_at_least_and_adds_half_at_most() -> None:
    assert (jittered(2.0, 0.0), jittered(2.0, 0.5), jittered(2.0, 0.999)) == (1.0, 2.0, pytest.approx(3.0, abs=0.01))
