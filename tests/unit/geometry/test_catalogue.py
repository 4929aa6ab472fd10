"""Sizes in millimetres from what is known of a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream_worker.geometry.catalogue import Catalogue

GEOMETRY: dict[str, Any] = {
    "gaussians": 100,
    "frame": "camera",
    "unit": "relative: depth of the pinhole plane",
    "oriented_box": {
        "center": [0.1, -0.2, 1.0],
        "rotation": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        "width": 0.4,
        "depth": 0.2,
        "height": 0.1,
    },
    "volume": 0.006,
    "volume_method": "cells",
    "pose": {"rotation": [1.0, 0.0, 0.0, 0.0], "translation": [0.1, -0.2, 1.0], "scale": 0.4},
}


def catalogue(tmp_path: Path, text: str) -> Catalogue:
    (tmp_path / "sizes.toml").write_text(text)
    return Catalogue.read(tmp_path / "sizes.toml")


def test_one_side_scales_everything(tmp_path: Path) -> None:
    found = catalogue(tmp_path, "[sofa]\nwidth = 2000\n").scaled(GEOMETRY, "sofa")
    box, pose = found["oriented_box"], found["pose"]
    assert [box[side] for side in ("width", "depth", "height")] == pytest.approx([2000, 1000, 500])
    assert box["center"] == pose["translation"] == pytest.approx([500, -1000, 5000])
    assert (pose["scale"], pose["rotation"]) == (pytest.approx(2000), [1.0, 0.0, 0.0, 0.0])
    assert found["volume"] == pytest.approx(0.006 * 5000**3)
    assert (found["unit"], found["volume_method"]) == ("mm", "cells; scaled by the catalogue's width")
    assert found["gaussians"] == 100
    assert GEOMETRY["unit"].startswith("relative"), "what was given is as it was"


def test_two_sides_that_disagree_are_met_in_the_middle(tmp_path: Path) -> None:
    found = catalogue(tmp_path, "[sofa]\nheight = 400\nwidth = 400\n").scaled(GEOMETRY, "sofa")
    assert found["oriented_box"]["width"] == pytest.approx(0.4 * 2000)  # between 1000 and 4000
    assert found["volume_method"].endswith("width and height")


@pytest.mark.parametrize(
    ("label", "changed"),
    [("chair", {}), ("sofa", {"unit": "metre, as MoGe estimates it"})],
)
def test_what_is_not_known_or_not_relative_stays(label: str, changed: dict[str, Any], tmp_path: Path) -> None:
    given = GEOMETRY | changed
    assert catalogue(tmp_path, "[sofa]\nwidth = 2000\n").scaled(given, label) == given


def test_a_side_without_length_tells_nothing(tmp_path: Path) -> None:
    flat = GEOMETRY | {"oriented_box": GEOMETRY["oriented_box"] | {"depth": 0.0}}
    assert catalogue(tmp_path, "[sofa]\ndepth = 900\n").scaled(flat, "sofa") == flat


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sofa]\nwidth = 0\n", "sofa.width must be millimetres"),
        ("[sofa]\nwidth = nan\n", "sofa.width must be millimetres"),
        ("[sofa]\nwidth = true\n", "sofa.width must be millimetres"),
        ("[sofa]\nwidth = '2 m'\n", "sofa.width must be millimetres"),
        ("[sofa]\nwidth = 1e6\n", "sofa.width must be millimetres"),
        ("[sofa]\nlength = 3\n", r"\[sofa\] must have one or more of width"),
        ("[sofa]\n", r"\[sofa\] must have one or more of width"),
        ("sofa = 3\n", r"\[sofa\] must have one or more of width"),
        ("[sofa\n", "sizes.toml"),
    ],
)
def test_a_file_that_says_nonsense(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        catalogue(tmp_path, text)
