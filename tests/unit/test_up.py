"""Which workers `up` starts on which GPU."""

from __future__ import annotations

import pytest

from stream_worker.settings import Metrics, Reconstructor, Sam3d, Settings, Up
from stream_worker.up import CONTEXT_MB, DETECTOR_MB, Card, cards_of, plan

SHARE = "STREAM_WORKER_RECONSTRUCTOR__GPU_MEMORY_MB"
A, B = Card("GPU-a", 81_559), Card("GPU-b", 81_559)


def test_without_a_gpu_there_is_one_of_each() -> None:
    assert [worker.name for worker in plan(Settings(), [])] == ["detector-0", "reconstructor-0", "aggregator-0"]


def test_each_gpu_has_a_detector_and_a_reconstructor_of_its_own() -> None:
    workers = {worker.name: worker for worker in plan(Settings(), [A, B])}
    assert set(workers) == {"detector-0", "detector-1", "reconstructor-0", "reconstructor-1", "aggregator-0"}
    assert workers["reconstructor-1"].env == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert workers["aggregator-0"].env == {}


def test_more_workers_than_gpus_share_them_in_turn() -> None:
    settings = Settings(up=Up(detectors=0, reconstructors=3, aggregators=2))
    workers = plan(settings, [A, B])
    assert [worker.env.get("CUDA_VISIBLE_DEVICES") for worker in workers] == ["GPU-a", "GPU-b", "GPU-a", None, None]


def test_each_worker_serves_its_metrics_at_a_port_of_its_own() -> None:
    settings = Settings(up=Up(aggregators=2), metrics=Metrics(port=9100))
    workers = plan(settings, [A])
    assert [worker.env["STREAM_WORKER_METRICS__PORT"] for worker in workers] == ["9100", "9101", "9102", "9103"]
    assert workers[0].env["CUDA_VISIBLE_DEVICES"] == "GPU-a"


@pytest.mark.parametrize(
    ("cards", "cores", "expected"),
    [
        ([A], 16, ["GPU-a"] * 4),
        ([A, B], 16, ["GPU-a", "GPU-b"] * 2),
        ([A], 2, ["GPU-a"]),
        ([Card("GPU-c", 32_607)], 16, ["GPU-c"] * 2),
        ([Card("GPU-d", 12_288)], 16, ["GPU-d"]),
        ([A, Card("GPU-d", 12_288)], 64, ["GPU-a", "GPU-d"]),
        ([], 16, [None]),
    ],
)
def test_several_sam_3d_objects_share_a_card_that_is_large_enough(
    cards: list[Card], cores: int, expected: list[str | None]
) -> None:
    settings = Settings(reconstructor=Reconstructor(model="sam3d"), up=Up(detectors=0, aggregators=0))
    found = [worker.env.get("CUDA_VISIBLE_DEVICES") for worker in plan(settings, cards, cores)]
    assert found == expected


def test_those_that_share_a_card_have_equal_parts_of_its_memory() -> None:
    shared = Settings(reconstructor=Reconstructor(model="sam3d"))
    workers = {worker.name: worker for worker in plan(shared, [A], 16)}
    share = {workers[f"reconstructor-{number}"].env[SHARE] for number in range(4)}
    assert share == {str((81_559 - DETECTOR_MB) // 4 - CONTEXT_MB)}
    assert SHARE not in workers["detector-0"].env


@pytest.mark.parametrize(
    ("cards", "reconstructors", "budget"),
    [
        ([A, B], 2, None),  # each has its own
        ([A], 2, 9_000),  # a setting says it already, and every worker reads it
        ([Card("GPU-mig", 0)], 2, None),  # nobody knows how much there is
        ([], 2, None),
    ],
)
def test_no_part_where_there_is_none_to_give(cards: list[Card], reconstructors: int, budget: int | None) -> None:
    settings = Settings(
        reconstructor=Reconstructor(model="sam3d", gpu_memory_mb=budget), up=Up(reconstructors=reconstructors)
    )
    assert not any(SHARE in worker.env for worker in plan(settings, cards, 16))


def test_a_budget_says_how_many_share_a_card() -> None:
    settings = Settings(reconstructor=Reconstructor(model="sam3d", gpu_memory_mb=39_000), up=Up(detectors=0))
    assert [worker.name for worker in plan(settings, [A], 16)][:-1] == ["reconstructor-0", "reconstructor-1"]


def test_meshes_take_so_much_memory_that_fewer_share_a_card() -> None:
    settings = Settings(reconstructor=Reconstructor(model="sam3d"), sam3d=Sam3d(mesh=True), up=Up(detectors=0))
    assert [worker.name for worker in plan(settings, [A], 16)][:-1] == ["reconstructor-0", "reconstructor-1"]


def test_what_nvidia_smi_says() -> None:
    said = "GPU-a, 81559\nGPU-b, 81559\nGPU-mig, [N/A]\n"
    assert cards_of(said) == [A, B, Card("GPU-mig", 0)]
    assert cards_of("\n") == []
