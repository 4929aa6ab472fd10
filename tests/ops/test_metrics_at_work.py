"""What workers tell of themselves at /metrics: real processes on a real Kafka, and a stage that is kept busy."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ops.docs.metrics import families
from stream_worker import metrics, topics
from stream_worker.errors import Ours, Reason
from stream_worker.publish import Publisher
from stream_worker.records import Received
from stream_worker.settings import Kafka, Metrics, Settings
from stream_worker.settings import Stage as StageSettings
from stream_worker.stage import Stage
from stream_worker.up import running as service
from tests.faults.test_store import three_free_ports
from tests.integration.test_cli import free_port
from tests.integration.test_pipeline import Reader, made_up, settings_for
from tests.integration.test_stage import Echo, send
from tests.photo_server import serving
from tests.staging import running

SECRET = "canary-of-an-image"
GOOD, OBJECTS = 3, 2


class Scraped:
    """The metrics of one or more workers, as Prometheus reads them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)
        self.families: list[Metric] = [one for text in self.texts for one in text_string_to_metric_families(text)]

    @classmethod
    def of(cls, *ports: int) -> Scraped:
        """What is served at these ports now."""
        texts = []
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
                texts.append(page.read().decode())
        return cls(texts)

    def values(self, name: str, **labels: str) -> list[float]:
        """The samples of a name that have these labels."""
        return [
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == f"stream_worker_{name}" and labels.items() <= sample.labels.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        """Their sum."""
        return sum(self.values(name, **labels))


async def until(ports: tuple[int, ...], condition: Callable[[Scraped], bool]) -> Scraped:
    """Scrape until it is so; pytest's own time limit is the deadline."""
    while not condition(scraped := await asyncio.to_thread(Scraped.of, *ports)):  # noqa: ASYNC110  # others tell
        await asyncio.sleep(0.2)
    return scraped


@pytest.mark.timeout(300)
async def test_the_metrics_of_a_service_move_with_its_work(kafka: str, prefix: str, tmp_path: Path) -> None:
    first = three_free_ports()
    ports = (first, first + 1, first + 2)
    with serving(made_up) as base:
        settings = settings_for(kafka, prefix, tmp_path, base, detectors=1, reconstructors=1, aggregators=1)
        settings = settings.model_copy(update={"metrics": Metrics(port=first, refresh_s=1)})
        async with service(settings, on_progress=print, log_dir=tmp_path / "logs") as up:
            idle = await until(
                ports, lambda scraped: len(scraped.values("lag_records")) == 4 * settings.kafka.partitions
            )
            _nothing_has_happened(idle)
            async with Publisher(up.settings) as publisher, Reader(up.settings) as reader:
                for number in range(GOOD):
                    await publisher.publish(f"{base}/{number}/{OBJECTS}", image_id=f"{SECRET}-{number}")
                await publisher.publish("http://10.0.0.1/no.png", image_id=f"{SECRET}-refused")
                await reader.until(GOOD + 1, 120)
            done = await until(
                ports,
                lambda scraped: (
                    scraped.total("records_total", stage="aggregator") == GOOD + 1 + GOOD * OBJECTS
                    and scraped.total("lag_records") == 0
                    and scraped.total("in_flight") == 0
                ),
            )
    _work_was_done(done)
    _all_families_are_there(done)
    _labels_are_of_closed_sets(done)
    assert not any(SECRET in text or base in text for text in done.texts)


def _nothing_has_happened(idle: Scraped) -> None:
    assert idle.total("records_total") == idle.total("errors_total") == idle.total("lag_records") == 0
    assert idle.values("errors_total", stage="detector", reason="url_refused") == [0], "to be seen to increase"
    assert sorted(idle.values("build_info")) == [1, 1, 1]
    assert idle.total("lanes", state="open") == 3 * idle.total("lanes", state="open", stage="detector")
    assert idle.values("model_state", model="reconstructor", state="ready") == [1]
    assert all(value >= 1 for value in idle.values("rebalances_total"))


def _work_was_done(done: Scraped) -> None:
    for stage, good, failed in (("detector", GOOD, 1), ("reconstructor", GOOD * OBJECTS, 0)):
        assert done.values("records_total", stage=stage, outcome="done") == [good]
        assert done.values("records_total", stage=stage, outcome="failed") == [failed]
    assert done.values("errors_total", reason="url_refused", stage="detector") == [1]
    assert done.total("errors_total") == done.total("dead_letters_total") == 1
    assert done.values("image_seconds_count", status="complete") == [GOOD]
    assert done.values("image_seconds_count", status="failed") == [1]
    for phase in ("queue", "fetch", "decode", "store", "detect"):
        assert done.values("phase_seconds_count", stage="detector", phase=phase) == [GOOD], phase
    for phase in ("queue", "wait", "reconstruct", "store"):
        assert done.values("phase_seconds_count", stage="reconstructor", phase=phase) == [GOOD * OBJECTS], phase
    assert done.values("phase_seconds_count", stage="aggregator") == [GOOD + 1 + GOOD * OBJECTS]
    assert done.values("model_task_seconds_count", model="reconstructor") == [GOOD * OBJECTS]
    assert done.total("model_task_seconds_sum", model="reconstructor") > 0
    assert all(value > 0 for value in done.values("transaction_seconds_count"))
    assert done.total("oldest_waiting_seconds") == 0
    assert done.total("join_images", state="finished") == GOOD + 1
    assert done.total("join_expired_total") == 0
    assert done.total("model_starts_total", model="detector") == 1


def _all_families_are_there(done: Scraped) -> None:
    served = {family.name for family in done.families}
    only_said = {"stream_worker_model_compiled"}  # by a model that can be compiled
    assert {one.name.removesuffix("_total") for one in families()} - served <= only_said
    for family in done.families:
        assert not family.name.endswith("_created")


def _labels_are_of_closed_sets(done: Scraped) -> None:
    partitions = {str(number) for number in range(100)}
    allowed = {
        "stage": {"detector", "reconstructor", "aggregator"},
        "outcome": set(metrics.OUTCOMES),
        "reason": {reason.value for reason in Reason},
        "of": set(Ours),
        "phase": set(metrics.PHASES),
        "topic": {topics.IMAGES, topics.OBJECTS, topics.DETECTIONS, topics.RECONSTRUCTIONS},
        "partition": partitions,
        "status": set(metrics.STATUSES),
        "state": {*metrics.MODEL_STATES, *metrics.LANE_STATES, "awaiting_manifest", "awaiting_results", "finished"},
        "model": {"detector", "reconstructor", "decoder-0"},
        "cause": set(metrics.END_CAUSES),
    }
    for family in done.families:
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label in ("le", "version", "python") or value in allowed[label], (family.name, label, value)


# ---------------------------------------------------------------------- a worker that takes no more


class Observed(Echo):
    """`Echo` with metrics of its own: other tests have some of that name in this process."""

    name = "observed"


async def test_lag_and_age_are_known_while_nothing_more_is_taken(kafka: str, prefix: str) -> None:
    """Nothing is fetched then, so what comes in is known from the broker only."""
    gate = asyncio.Event()

    async def wait(record: Received) -> None:
        await gate.wait()

    settings = Settings(
        kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=3),
        stage=StageSettings(drain_s=5),
        metrics=Metrics(port=free_port(), refresh_s=1),  # nobody serves it here: the registry is read
    )
    await topics.create(settings.kafka)
    await send(settings, [b"%d" % number for number in range(60)], partition=1)
    async with running(Observed(wait), settings):
        await _until_lag(60)
        assert (_gauge("oldest_waiting_seconds", partition="1") or 0) > 0
        assert _gauge("in_flight") == Observed.window
        await send(settings, [b"%d" % number for number in range(20)], partition=1)
        await _until_lag(80)
        before = _gauge("oldest_waiting_seconds", partition="1") or 0
        await _until(lambda: (_gauge("oldest_waiting_seconds", partition="1") or 0) > before)
        assert _gauge("lag_records", partition="0") == _gauge("oldest_waiting_seconds", partition="0") == 0
        gate.set()
        await _until_lag(0)
        assert _gauge("oldest_waiting_seconds", partition="1") == 0
        assert _gauge("records_total", outcome="done") == 80
    assert _gauge("lag_records", partition="1") is None, "the partition is another worker's now"


async def test_without_a_port_nothing_is_looked_at(kafka: str, prefix: str) -> None:
    settings = Settings(kafka=Kafka(bootstrap_servers=kafka, prefix=prefix, partitions=1))
    await topics.create(settings.kafka)

    class Unobserved(Echo):
        name = "unobserved"

    async with running(Unobserved(), settings) as stage:
        assert isinstance(stage, Stage)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "observation"]


async def _until_lag(records: int) -> None:
    await _until(lambda: _gauge("lag_records", partition="1") == records)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # nothing tells
        await asyncio.sleep(0.05)


def _gauge(name: str, **labels: str) -> float | None:
    of = {"topic": topics.IMAGES} if "partition" in labels else {}
    return metrics.REGISTRY.get_sample_value(f"stream_worker_{name}", {"stage": "observed", **of, **labels})
