"""SAM 3D Objects' adapter in its process, as the reconstructor starts it, with the stand-in for upstream's package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_worker import inference, metrics
from stream_worker.errors import Exit, Reason, UserError
from stream_worker.geometry import masks
from stream_worker.models.host import ModelHost
from stream_worker.models.results import reconstructed
from stream_worker.models.sam3d.result import measured
from stream_worker.reconstructor import MODELS
from stream_worker.settings import SAM3D, Reconstructor, Sam3d
from tests.unit.models.test_sam3d import FAKES, HEIGHT, WIDTH, written

pytest.importorskip("torch", reason="the stand-in is made of torch's tensors: install the extra `detector`")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelHost:
    """Not started yet."""
    monkeypatch.setenv("PYTHONPATH", str(FAKES))
    section = Reconstructor(model=SAM3D, device="cpu", threads=1, load_timeout_s=120, task_timeout_s=60)
    return inference.host(
        "sam3d", MODELS[SAM3D], section, Reason.RECONSTRUCT_FAILED, options=written(tmp_path / "hf") | {"device": "cpu"}
    )


async def test_an_object_through_the_child(host: ModelHost, tmp_path: Path) -> None:
    (tmp_path / "pixels").write_bytes(bytes(WIDTH * HEIGHT * 3))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:90, 100:150] = True
    task = {"pixels": str(tmp_path / "pixels"), "width": WIDTH, "height": HEIGHT}
    async with host:
        answer = await host.infer(task, masks.packed(masks.encode(mask)))
        said = inference.model_of(host)
    geometry = reconstructed(measured(answer.header, answer.payload, Sam3d()), answer.payload)
    assert geometry.gaussians == 40_000
    assert geometry.unit.startswith("relative")
    assert (said.name, said.version) == ("sam-3d-objects", "cf06676")
    assert said.weights_sha256 is not None
    assert metrics.MODEL_COMPILED.labels("sam3d")._value.get() == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "ss_decoder.ckpt").unlink(), r"ss_decoder\.ckpt can't be read"),
        (lambda folder: (folder / "ss_decoder.ckpt").write_bytes(b"others"), r"ss_decoder\.ckpt has sha256"),
        (
            lambda folder: (folder / "pipeline.yaml").write_text("_target_: os.system"),
            r"pipeline\.yaml: its _target_ must be",
        ),
    ],
)
async def test_what_is_wrong_with_a_checkpoint_is_said_in_one_line(
    spoil: object, said: str, host: ModelHost, tmp_path: Path
) -> None:
    assert callable(spoil)
    spoil(tmp_path / "hf")
    with pytest.raises(UserError, match=said) as told:
        async with host:
            pass
    assert told.value.exit_code == Exit.WEIGHTS
    assert "\n" not in str(told.value)
