"""What the reconstructor makes of its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_worker.errors import Exit, UserError
from stream_worker.events import Geometry
from stream_worker.inference import device_of
from stream_worker.reconstructor import Reconstructor
from stream_worker.settings import Reconstructor as ReconstructorSettings
from stream_worker.settings import Settings
from tests.unit.geometry.test_catalogue import GEOMETRY


def with_catalogue(path: Path) -> Reconstructor:
    return Reconstructor(Settings.model_validate({"reconstructor": {"catalogue": str(path)}}))


def test_the_catalogue_sizes_a_result_and_not_what_is_kept_of_it(tmp_path: Path) -> None:
    (tmp_path / "sizes.toml").write_text("[sofa]\nwidth = 2000\n")
    group, kept = with_catalogue(tmp_path / "sizes.toml"), Geometry.model_validate(GEOMETRY)
    sized = group._sized(kept, "sofa")
    assert (sized.unit, sized.oriented_box.width) == ("mm", pytest.approx(2000))
    assert kept == Geometry.model_validate(GEOMETRY)
    assert group._sized(kept, "chair") == kept
    assert group._model_settings() == Reconstructor(Settings())._model_settings(), "it costs no reconstruction"


@pytest.mark.parametrize("text", [None, "[sofa]\nwidth = -1\n"])
def test_a_catalogue_of_no_use_is_one_clear_line(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "sizes.toml").write_text(text)
    with pytest.raises(UserError, match=r"reconstructor\.catalogue: .*sizes\.toml") as told:
        with_catalogue(tmp_path / "sizes.toml")
    assert told.value.exit_code == Exit.USAGE
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("device", "visible", "said"),
    [
        ("auto", None, "auto"),
        ("auto", "", "cpu"),
        ("auto", "GPU-7f3a", "cuda:GPU-7f3a"),
        ("cuda", "1", "cuda:1"),
        ("cuda:2", "GPU-7f3a", "cuda:2"),
        ("cpu", "GPU-7f3a", "cpu"),
    ],
)
def test_an_event_says_where_the_model_worked(device: str, visible: str | None, said: str) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert device_of(ReconstructorSettings(device=device), environ) == said
