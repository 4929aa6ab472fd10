"""The gauge of outages: the age of the oldest wait for each thing of ours."""

from __future__ import annotations

from stream_worker import metrics
from stream_worker.errors import Ours, OutageError
from stream_worker.outages import Outages


def test_the_oldest_wait_counts_until_it_is_over() -> None:
    now = 100.0
    outages = Outages(lambda: now)
    with outages.waiter() as first:
        assert outages.seconds(Ours.STORE) == 0
        first(OutageError("away", Ours.STORE))
        now = 103.0
        with outages.waiter() as second:
            second(OutageError("away", Ours.STORE))
            first(OutageError("still away", Ours.STORE))
            now = 105.0
            assert outages.seconds(Ours.STORE) == 5.0
            assert outages.seconds(Ours.BROKER) == 0.0
            assert metrics.REGISTRY.get_sample_value("stream_worker_outage_seconds", {"of": "store"}) == 5.0
        assert outages.seconds(Ours.STORE) == 5.0
        first(OutageError("now the broker", Ours.BROKER))
        now = 106.0
        assert (outages.seconds(Ours.STORE), outages.seconds(Ours.BROKER)) == (0.0, 1.0)
    assert outages.seconds(Ours.BROKER) == 0.0
