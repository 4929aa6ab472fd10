"""The page of the benchmarks: made from their states, and from nothing else."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import states
from tests.benchmarks.fleet import LIMITS as FLEETS
from tests.benchmarks.page import RESULTS, SECTIONS, rewritten, section
from tests.benchmarks.plots import draw

FIGURES: dict[str, dict[str, Any]] = {
    "makespan": {
        "gpus": 4,
        "scenarios": [
            {
                "name": f"4 x 3, {object_s:g} s",
                "images": 4,
                "objects": 3,
                "image_s": object_s / 7,
                "object_s": object_s,
                "limit": 1.15,
                "ideal_s": 22 * object_s / 7,
                "service": [1.05, 1.04, 1.06],
                "pool": [1.0] * 3,
                "hashing": [1.6] * 3,
            }
            for object_s in (0.7, 7.0)
        ],
    },
    "fleet": {
        "objects": 400,
        "each": 4,
        "image_ms": 50,
        "detectors": 2,
        "sigma": 0.5,
        "seed": 1,
        "cores": 2,
        "limits": {str(gpus): limit for gpus, limit in FLEETS.items()},
        "fleets": [
            {
                "gpus": gpus,
                "mean_s": 1.0,
                "processes": 20,
                "memory_mb": 900.0,
                "runs": [
                    {"seconds": seconds, "ideal_s": 100.0, "by_count_s": 105.0, "cores": 0.5}
                    for seconds in (104.0, 102.0, 130.0)
                ],
            }
            for gpus in (4, 16, 64)
        ],
    },
    "busy": {
        "photo": [1024, 768],
        "sizes": [
            {"seconds": 0.7, "objects": 20, "limit": 0.99, "shares": [0.995, 0.992], "gaps_ms": [3.0, 4.0]},
            {"seconds": 7.0, "objects": 4, "limit": None, "shares": [0.999, 0.998], "gaps_ms": [3.0, 4.0]},
        ],
    },
    "latency": {
        "images": 60,
        "objects": 2,
        "image_ms": 50,
        "object_ms": 200,
        "gpus": 2,
        "seed": 1,
        "limits": {"50": 0.06, "99": 0.2},
        "loads": [
            {"name": name, "per_second": pace, "model": [[0.06, 0.09]] * 3, "ideal": [[0.05, 0.05]] * 3}
            for name, pace in (("1 a second", 1.0), ("half of the load", 2.5))
        ],
    },
    "paths": {
        "images": 4000,
        "objects": 2,
        "partitions": 4,
        "batch": 16,
        "limits": {"same": 0.8, "quix": 2.0},
        "rates": {
            "detector": {"service": [900.0, 950.0], "same": [1000.0, 1000.0], "bare": [4000.0, 4100.0]},
            "aggregator": {
                "service": [900.0, 950.0],
                "same": [1000.0, 1000.0],
                "bare": [4000.0, 4100.0],
                "quix": [300.0, 310.0],
            },
        },
    },
    "growth": {
        "objects": 3,
        "results": 1,
        "limits": {"kb": 4.0, "restore_s": 10.0},
        "flight": [
            {
                "images": images,
                "empty_mb": 70.0,
                "full_mb": 70.0 + images / 300,
                "restored_s": [images / 20_000] * 2,
                "restored_mb": [71.0, 72.0],
            }
            for images in (1000, 100_000)
        ],
        "length": {
            "images": 1500,
            "times": 10,
            "short": [{"rate": 1000.0, "tenths": [None] * 9}],
            "long": [{"rate": 980.0, "tenths": [None, *[990.0] * 8]}],
        },
    },
}
"""As the benchmarks leave them, with figures that are all within their limits."""


def state(name: str, figures: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "date": "2026-11-25",
        "versions": "Python 3",
        "machine": "2 cores",
        "command": f"python -m tests.benchmarks.{name}",
        "figures": figures or FIGURES[name],
    }


def place(name: str, inside: str = "") -> str:
    return f"before\n<!-- {name}: written -->\n{inside}<!-- end of {name} -->\nafter\n"


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_whole_tables_how_it_was_measured_and_its_plot(name: str) -> None:
    text = section(state(name))
    assert f"`python -m tests.benchmarks.{name}`, 2026-11-25; 2 cores, Python 3." in text
    assert f"](plots/{name}.png)" in text
    widths = [[line.count("|") for line in table.splitlines()] for table in re.findall(r"(?:^\|.*\n)+", text, re.M)]
    assert widths
    assert all(len(set(counts)) == 1 and len(counts) > 2 for counts in widths)
    assert "missed" not in text


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("makespan", lambda figures: figures["scenarios"][0].update(service=[1.2, 1.2, 1.0])),
        ("fleet", lambda figures: [run.update(seconds=111.0) for run in figures["fleets"][1]["runs"]]),
        ("busy", lambda figures: figures["sizes"][0].update(shares=[0.98, 0.97])),
        ("latency", lambda figures: figures["loads"][1].update(ideal=[[0.05, 0.3]] * 3)),
        ("paths", lambda figures: figures["rates"]["aggregator"].update(quix=[600.0, 600.0])),
        ("growth", lambda figures: figures["flight"][1].update(restored_s=[11.0, 12.0])),
    ],
)
def test_a_figure_that_was_missed_is_not_hidden(name: str, spoil: Any) -> None:
    figures = copy.deepcopy(FIGURES[name])
    spoil(figures)
    assert "**missed**" in section(state(name, figures))


def test_the_guides_table_stands_beside_ours() -> None:
    text = section(state("makespan"))
    assert "| 4 x 3 | 1,836 | 22 | 22 | 23.1 | 23.1 |" in text  # of the tenth times ten, and in full


def test_only_what_was_measured_is_written_anew() -> None:
    text = "by hand\n" + place("busy", "old\n") + place("fleet", "kept\n")
    written = rewritten(text, {"busy": state("busy")})
    assert "old" not in written
    assert section(state("busy")) in written
    assert place("fleet", "kept\n") in written
    assert written.startswith("by hand\nbefore\n")
    assert rewritten(written, {"busy": state("busy")}) == written


def test_a_benchmark_without_a_place_is_said() -> None:
    with pytest.raises(ValueError, match="no place for fleet"):
        rewritten(place("busy"), {"fleet": state("fleet")})


def test_the_page_has_a_place_for_each_benchmark() -> None:
    page = RESULTS.read_text(encoding="utf-8")
    for name in SECTIONS:
        assert rewritten(page, {name: state(name)}).count(section(state(name))) == 1


def test_states_come_back_as_they_were_kept(tmp_path: Path) -> None:
    kept = states.save(tmp_path / "new", "busy", FIGURES["busy"])
    states.save(tmp_path / "new", "fleet", FIGURES["fleet"])
    found = states.load(tmp_path / "new")
    assert set(found) == {"busy", "fleet"}
    assert found["busy"] == kept
    assert states.load(tmp_path / "none") == {}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_plot_is_a_small_picture_and_the_same_again(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for file in ("one.png", "two.png"):
        draw(state(name), tmp_path / file)
    picture = (tmp_path / "one.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 60_000
    assert picture == (tmp_path / "two.png").read_bytes()
