"""Which workers `up` starts on which GPU."""

from __future__ import annotations

from stream_worker.settings import Metrics, Settings, Up
from stream_worker.up import plan


def test_without_a_gpu_there_is_one_of_each() -> None:
    assert [worker.name for worker in plan(Settings(), [])] == ["detector-0", "reconstructor-0", "aggregator-0"]


def test_each_gpu_has_a_detector_and_a_reconstructor_of_its_own() -> None:
    workers = {worker.name: worker for worker in plan(Settings(), ["GPU-a", "GPU-b"])}
    assert set(workers) == {"detector-0", "detector-1", "reconstructor-0", "reconstructor-1", "aggregator-0"}
    assert workers["reconstructor-1"].env == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert workers["aggregator-0"].env == {}


def test_more_workers_than_gpus_share_them_in_turn() -> None:
    settings = Settings(up=Up(detectors=0, reconstructors=3, aggregators=2))
    workers = plan(settings, ["GPU-a", "GPU-b"])
    assert [worker.env.get("CUDA_VISIBLE_DEVICES") for worker in workers] == ["GPU-a", "GPU-b", "GPU-a", None, None]


def test_each_worker_serves_its_metrics_at_a_port_of_its_own() -> None:
    settings = Settings(up=Up(aggregators=2), metrics=Metrics(port=9100))
    workers = plan(settings, ["GPU-a"])
    assert [worker.env["STREAM_WORKER_METRICS__PORT"] for worker in workers] == ["9100", "9101", "9102", "9103"]
    assert workers[0].env["CUDA_VISIBLE_DEVICES"] == "GPU-a"
