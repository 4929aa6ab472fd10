"""The adapter of SAM 3D Objects, against a stand-in for upstream's package (tests/fakes/upstream)."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_worker.errors import Reason, RecordFault
from stream_worker.geometry import gaussians, masks, pointmap, rotations
from stream_worker.models.protocol import ModelFault
from stream_worker.models.results import reconstructed
from stream_worker.models.sam3d.adapter import LEAST_PX, Sam3d
from stream_worker.models.sam3d.lull import Lull
from stream_worker.models.sam3d.phases import Phases
from stream_worker.models.sam3d.result import measured, parts
from stream_worker.models.sam3d.steps import computed
from stream_worker.reconstructor import Reconstructor
from stream_worker.settings import Kafka, Settings
from stream_worker.settings import Sam3d as Sam3dSettings

FAKES = Path(__file__).parents[2] / "fakes" / "upstream"
PARTS = ("ss_generator", "slat_generator", "ss_decoder", "slat_decoder_gs", "slat_decoder_gs_4", "slat_decoder_mesh")
WIDTH, HEIGHT = 160, 120

pytest.importorskip("torch", reason="the stand-in is made of torch's tensors: install the extra `detector`")


@pytest.fixture(autouse=True)
def upstream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in's module of the pipeline, fresh."""
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.setenv("LIDRA_SKIP_INIT", "false")
    from sam3d_objects.pipeline import inference_pipeline_pointmap as module

    module.CALLS.clear()
    yield module
    for name in [name for name in sys.modules if name.partition(".")[0] == "sam3d_objects"]:
        del sys.modules[name]


def written(folder: Path, pipeline: str = "", generator: str = "{}") -> dict[str, Any]:
    """A checkpoint folder as upstream publishes it, with pins beside it; the options that name them."""
    folder.mkdir()
    lines = ["_target_: sam3d_objects.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap"]
    for part in PARTS:
        (folder / f"{part}.yaml").write_text(generator if part == "ss_generator" else "{}")
        (folder / f"{part}.ckpt").write_bytes(part.encode())
        lines += [f"{part}_config_path: {part}.yaml", f"{part}_ckpt_path: {part}.ckpt"]
    lines += ["dtype: float16", "depth_model:", "  _target_: sam3d_objects.pipeline.depth_models.moge.MoGe"]
    (folder / "pipeline.yaml").write_text("\n".join([*lines, pipeline]) + "\n")
    pin(folder)
    return {
        "checkpoint": str(folder),
        "sha256sums": str(folder.with_suffix(".sha256")),
        "device": "cpu",
        "threads": 1,
        "compile": False,
        "warm_up_runs": 0,
    }


def pin(folder: Path) -> None:
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in sorted(folder.iterdir())]
    folder.with_suffix(".sha256").write_text("\n".join(sums) + "\n")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return written(tmp_path / "hf")


Asked = Callable[..., tuple[dict[str, Any], bytes]]


@pytest.fixture
def ask(tmp_path: Path) -> Asked:
    """Have a model reconstruct what lies under a mask (a square unless one is given)."""

    def asked(model: Sam3d, mask: np.ndarray[Any, Any] | None = None) -> tuple[dict[str, Any], bytes]:
        if mask is None:
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[30:90, 100:150] = True
        height, width = mask.shape
        path = tmp_path / "pixels"
        with path.open("wb") as file:
            file.truncate(width * height * 3)
        task = {"pixels": str(path), "width": width, "height": height}
        answer, body = model.infer(task, model.prepare(task, masks.packed(masks.encode(mask))))
        assert callable(body)
        ply, glb = parts(answer, body())
        return answer | measured(answer, ply, Sam3dSettings()) | {"glb": glb}, ply

    return asked


def loaded(options: dict[str, Any]) -> Sam3d:
    model = Sam3d()
    model.load(options)
    model.warm_up()
    return model


# ---------------------------------------------------------------------- what upstream is asked


def test_the_settings_reach_upstreams_call(options: dict[str, Any], ask: Asked, upstream: Any) -> None:
    settings = Settings(kafka=Kafka(bootstrap_servers="none"))
    ask(loaded(settings.sam3d.model_dump() | {"seed": settings.reconstructor.seed} | options))
    call = upstream.CALLS[-1]
    assert (call["stage1_inference_steps"], call["stage2_inference_steps"], call["seed"]) == (15, 8, 42)
    assert not any(call[f"with_{name}"] for name in ("mesh_postprocess", "texture_baking", "layout_postprocess"))
    assert call["decode_formats"] == ["gaussian"]
    assert call["image"].shape == (HEIGHT, WIDTH, 4)
    assert set(np.unique(call["image"][..., 3])) == {0, 255}
    assert call["stage1_only"] is call["use_stage1_distillation"] is call["use_stage2_distillation"] is False


def test_settings_that_were_changed_reach_it_too(options: dict[str, Any], ask: Asked, upstream: Any) -> None:
    changed = {
        "stage1_steps": 12,
        "stage2_steps": 4,
        "seed": 7,
        "mesh": True,
        "mesh_postprocess": True,
        "texture_baking": True,
        "layout_postprocess": True,
    }
    ask(loaded(options | changed))
    call = upstream.CALLS[-1]
    assert (call["stage1_inference_steps"], call["stage2_inference_steps"], call["seed"]) == (12, 4, 7)
    assert all(call[f"with_{name}"] for name in ("mesh_postprocess", "texture_baking", "layout_postprocess"))
    assert call["decode_formats"] == ["gaussian", "mesh"]
    assert call["use_vertex_color"] is False


def test_what_no_option_needs_is_not_loaded(options: dict[str, Any], upstream: Any) -> None:
    Path(options["checkpoint"], "slat_decoder_mesh.ckpt").unlink()
    loaded(options)
    init = upstream.CALLS[0]["init"]
    assert init["slat_decoder_mesh_ckpt_path"] is init["slat_decoder_gs_4_ckpt_path"] is init["depth_model"] is None
    assert (init["rendering_engine"], init["compile_model"]) == ("pytorch3d", False)
    assert init["workspace_dir"] == options["checkpoint"]


def test_a_mesh_needs_its_decoder(options: dict[str, Any], upstream: Any) -> None:
    loaded(options | {"mesh": True})
    assert upstream.CALLS[0]["init"]["slat_decoder_mesh_ckpt_path"] == "slat_decoder_mesh.ckpt"


def test_a_mesh_comes_as_glb_behind_the_ply(options: dict[str, Any], ask: Asked) -> None:
    header, ply = ask(loaded(options | {"mesh": True}))
    assert header["glb"].startswith(b"glTF")
    assert len(gaussians.from_ply(ply)) == 40_000
    plain, _ = ask(loaded(options))
    assert plain["glb"] == b""


@pytest.mark.parametrize("said", [-1, 10**9, True, "20", 13, 11])
def test_a_mesh_that_is_none(said: Any) -> None:
    with pytest.raises(RecordFault, match="mesh") as told:
        parts({"glb_bytes": said}, b"ply" + b"glTF\x02\x00\x00\x00\x0c\x00\x00\x00")
    assert told.value.reason == Reason.RECONSTRUCT_FAILED


def test_the_plane_is_in_pytorch3ds_frame(options: dict[str, Any], ask: Asked, upstream: Any) -> None:
    ask(loaded(options))
    plane = upstream.CALLS[-1]["pointmap"].numpy()
    assert plane.shape == (HEIGHT, WIDTH, 3)
    assert plane.dtype == np.float32
    np.testing.assert_array_equal(plane * [-1, -1, 1], pointmap.pointmap(WIDTH, HEIGHT))


def test_the_planes_camera_is_known_and_not_recovered(options: dict[str, Any], ask: Asked) -> None:
    """Upstream recovers intrinsics from any point map, and from a plane they are anything (NaN, here)."""
    model = loaded(options)
    ask(model)
    focal = 0.9 * WIDTH
    known = [[focal / WIDTH, 0, 0.5], [0, focal / HEIGHT, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(model._pipeline.intrinsics.numpy(), known, rtol=1e-6)


def test_settings_that_change_the_result_change_the_fingerprint() -> None:
    def said(**sam3d: Any) -> dict[str, Any]:
        settings = Settings.model_validate({"reconstructor": {"model": "sam3d"}, "sam3d": sam3d})
        return Reconstructor(settings)._model_settings()

    assert said(stage1_steps=12) != said()
    assert said(compile=False, checkpoint="/elsewhere") == said()


# ---------------------------------------------------------------------- what comes of it


def test_the_object_lies_where_the_photo_shows_it(options: dict[str, Any], ask: Asked) -> None:
    """The stand-in's ellipsoid, half axes 0.5, 0.3 and 0.4, as wide as the mask."""
    header, ply = ask(loaded(options))
    geometry = reconstructed(header, ply)
    camera = pointmap.Pinhole.of(WIDTH, HEIGHT)
    scale = 49 / camera.focal
    assert geometry.pose.scale == pytest.approx(scale, rel=1e-5)
    box = geometry.oriented_box
    assert (box.width, box.depth, box.height) == pytest.approx((scale, 0.6 * scale, 0.8 * scale), rel=0.01)
    assert geometry.volume == pytest.approx(4 / 3 * np.pi * 0.5 * 0.3 * 0.4 * scale**3, rel=0.04)
    u, v = camera.pixels(np.array(box.center))
    assert (float(u), float(v)) == pytest.approx((124.5, 59.5), abs=0.5)


def test_the_pose_puts_the_gaussians_into_the_box(options: dict[str, Any], ask: Asked) -> None:
    header, ply = ask(loaded(options))
    pose, box = header["pose"], header["oriented_box"]
    rotation = rotations.to_matrix(np.array(pose["rotation"]))
    points = gaussians.from_ply(ply).positions @ rotation.T * pose["scale"] + np.array(pose["translation"])
    along = (points - np.array(box["center"])) @ np.array(box["rotation"]).T
    np.testing.assert_allclose(np.ptp(along, axis=0), [box["width"], box["depth"], box["height"]], rtol=0.01)


def test_the_ply_holds_what_upstream_would_write_and_no_infinity(options: dict[str, Any], ask: Asked) -> None:
    from sam3d_objects.model.parts import Gaussian, ellipsoid

    _, ply = ask(loaded(options))
    found, theirs = gaussians.from_ply(ply), Gaussian(ellipsoid())
    gaussians.check(found)
    opacity = theirs.get_opacity
    logits = (opacity / (1 - opacity)).log().numpy()[:, 0]
    assert np.isinf(logits[0])
    assert found.opacities[0] == pytest.approx(40 - 2.1972, abs=1e-3)
    np.testing.assert_array_equal(found.opacities[1:], logits[1:])
    np.testing.assert_array_equal(found.positions, theirs.get_xyz.numpy())
    np.testing.assert_array_equal(found.sh_dc, theirs._features_dc.numpy()[:, 0])
    np.testing.assert_array_equal(found.scales, theirs.get_scaling.log().numpy())
    np.testing.assert_array_equal(found.rotations, np.tile(np.float32([1, 0, 0, 0]), (len(found), 1)))


def test_a_photo_of_twelve_megapixels(options: dict[str, Any], ask: Asked) -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[1000:2000, 3000:3900] = True
    header, _ = ask(loaded(options), mask)
    u, v = pointmap.Pinhole.of(4000, 3000).pixels(np.array(header["oriented_box"]["center"]))
    assert (float(u), float(v)) == pytest.approx((3449.5, 1499.5), abs=2)


@pytest.mark.parametrize(("way", "ahead"), [("pinhole", 3), ("moge", 0)])
def test_what_is_made_ready_is_not_made_again(
    way: str, ahead: int, options: dict[str, Any], upstream: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """MoGe makes its point map on the GPU: nothing is done before the object's turn."""
    made: list[str] = []

    def counted(name: str) -> None:
        method = getattr(upstream.InferencePipelinePointMap, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            return method(*args, **kwargs)

        monkeypatch.setattr(upstream.InferencePipelinePointMap, name, call)

    counted("compute_pointmap")
    counted("preprocess_image")
    model = loaded(options | {"pointmap": way})
    made.clear()
    (tmp_path / "pixels").write_bytes(bytes(WIDTH * HEIGHT * 3))
    task = {"pixels": str(tmp_path / "pixels"), "width": WIDTH, "height": HEIGHT}
    ready = model.prepare(task, np.packbits(np.ones((HEIGHT, WIDTH), bool)).tobytes())
    assert len(made) == ahead
    with contextlib.suppress(ModelFault):  # the stand-in's MoGe finds no depth
        model.infer(task, ready)
    assert made == ["compute_pointmap", "preprocess_image", "preprocess_image"][: ahead or 1]


def test_the_hosts_work_waits_for_stage_1() -> None:
    class Pipeline:
        def get_condition_input(self) -> None:
            seen["conditioning"] = waits()

        def sample_sparse_structure(self) -> None:
            self.get_condition_input()
            seen["stage 1"] = waits()

    def waits() -> bool:
        waiting = threading.Thread(target=lull.wait)
        waiting.start()
        waiting.join(0.1)
        threads.append(waiting)
        return waiting.is_alive()

    threads: list[threading.Thread] = []
    seen: dict[str, bool] = {}
    pipeline = Pipeline()
    lull = Lull(pipeline)
    seen["before"] = waits()
    with lull.at_work():
        seen["at work"] = waits()
        pipeline.sample_sparse_structure()
        pipeline.get_condition_input()
        seen["stage 2"] = waits()
    seen["after"] = waits()
    for thread in threads:
        thread.join(10)
    assert seen == {
        "before": False,
        "at work": True,
        "conditioning": True,
        "stage 1": False,
        "stage 2": True,
        "after": False,
    }


def test_each_phase_has_its_time(options: dict[str, Any], ask: Asked) -> None:
    header, _ = ask(loaded(options))
    assert set(header["times"]) == {
        f"{phase}_s"
        for phase in (
            *("pointmap", "preprocess", "condition", "stage1", "stage2"),
            *("decode", "postprocess", "ahead"),
        )
    }
    assert header["voxels"] == 500


def test_a_phase_within_a_phase_counts_for_itself() -> None:
    class Pipeline:
        def get_condition_input(self) -> None:
            for _ in range(200_000):
                pass

        def sample_sparse_structure(self) -> None:
            self.get_condition_input()

        compute_pointmap = preprocess_image = sample_slat = decode_slat = postprocess_slat_output = get_condition_input

    pipeline = Pipeline()
    phases = Phases(pipeline, lambda: None)
    pipeline.sample_sparse_structure()
    times = phases.times()
    assert times["condition_s"] > 5 * times["stage1_s"]


# ---------------------------------------------------------------------- what can't be


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "subprocess.Popen", "torch.os.system", "torch.hub.load", "functools.partial"),
        *(
            "sam3d_objects.pipeline.os.system",
            "torch.nn.modules.os.system",
            "torch.nn.importlib.import_module",
        ),
        *("sam3d_objects", "torch.nn.", "torchvision.transforms.__builtins__.eval", "${oc.env:HOME}", "7"),
    ],
)
@pytest.mark.parametrize("where", ["pipeline.yaml", "ss_generator.yaml"])
def test_a_target_that_is_not_allowed(target: str, where: str, tmp_path: Path, upstream: Any) -> None:
    hostile = f"anywhere:\n  - deep: {{_target_: '{target}', command: 'touch {tmp_path}/done'}}"
    options = written(tmp_path / "hf", **{"pipeline" if where == "pipeline.yaml" else "generator": hostile})
    with pytest.raises(ModelFault, match=where) as told:
        loaded(options)
    assert told.value.code == "weights_refused"
    assert not upstream.CALLS
    assert not (tmp_path / "done").exists()


def test_a_configuration_is_checked_whatever_its_name_ends_with(tmp_path: Path, upstream: Any) -> None:
    options = written(tmp_path / "hf", generator="_target_: os.system")
    folder = tmp_path / "hf"
    (folder / "ss_generator.yaml").rename(folder / "ss_generator.txt")
    file = folder / "pipeline.yaml"
    file.write_text(file.read_text().replace("ss_generator.yaml", "ss_generator.txt"))
    pin(folder)
    with pytest.raises(ModelFault, match=r"ss_generator\.txt") as told:
        loaded(options)
    assert told.value.code == "weights_refused"
    assert not upstream.CALLS


@pytest.mark.parametrize("path", ["/etc/passwd", "../elsewhere.ckpt", "a/../../b.ckpt"])
def test_a_path_that_leaves_the_folder(path: str, tmp_path: Path) -> None:
    options = written(tmp_path / "hf")
    file = tmp_path / "hf" / "pipeline.yaml"
    file.write_text(file.read_text().replace("ss_decoder.ckpt", path))
    pin(file.parent)
    with pytest.raises(ModelFault, match="in the folder") as told:
        loaded(options)
    assert told.value.code == "weights_refused"


def test_weights_that_are_not_the_pinned_ones(options: dict[str, Any], upstream: Any) -> None:
    Path(options["checkpoint"], "ss_generator.ckpt").write_bytes(b"others")
    with pytest.raises(ModelFault, match=r"ss_generator\.ckpt has sha256") as told:
        loaded(options)
    assert told.value.code == "weights_mismatch"
    assert not upstream.CALLS


def test_a_configuration_that_was_changed_after_it_was_pinned(options: dict[str, Any]) -> None:
    with Path(options["checkpoint"], "pipeline.yaml").open("a") as file:
        file.write("slat_rescale_t: 1\n")
    with pytest.raises(ModelFault) as told:
        loaded(options)
    assert told.value.code == "weights_mismatch"


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        ("hf/pipeline.yaml", "weights_missing"),
        ("hf/slat_generator.yaml", "weights_missing"),
        ("hf/ss_decoder.ckpt", "weights_missing"),
        ("hf.sha256", "weights_missing"),
    ],
)
def test_a_file_that_is_missing(missing: str, code: str, options: dict[str, Any]) -> None:
    file = Path(options["checkpoint"]).parent / missing
    file.unlink()
    with pytest.raises(ModelFault, match=file.name) as told:
        loaded(options)
    assert told.value.code == code


def test_weights_without_a_pin(options: dict[str, Any]) -> None:
    sums = Path(options["sha256sums"])
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if "ss_decoder.ckpt" not in line))
    with pytest.raises(ModelFault, match=r"no line for ss_decoder\.ckpt") as told:
        loaded(options)
    assert told.value.code == "weights_unpinned"


@pytest.mark.parametrize("name", ["checkpoint", "sha256sums"])
def test_a_setting_that_is_missing(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ModelFault, match=f"sam3d.{name} must be set") as told:
        loaded(options | {name: None})
    assert told.value.code == "bad_options"


def test_upstream_is_not_installed(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sam3d_objects", None)
    with pytest.raises(ModelFault, match="not installed") as told:
        loaded(options)
    assert told.value.code == "import_failed"


@pytest.mark.parametrize(
    ("pixels", "code"), [(0, "empty_mask"), (1, "mask_too_small"), (LEAST_PX - 1, "mask_too_small")]
)
def test_a_mask_that_shows_nothing(pixels: int, code: str, options: dict[str, Any], ask: Asked, upstream: Any) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask.reshape(-1)[:pixels] = True
    model = loaded(options)
    with pytest.raises(ModelFault) as told:
        ask(model, mask)
    assert told.value.code == code
    ask(model)  # it goes on


def test_a_mask_of_another_photo(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pixels").write_bytes(bytes(WIDTH * HEIGHT * 3))
    with pytest.raises(ModelFault) as told:
        loaded(options).prepare({"pixels": str(tmp_path / "pixels"), "width": WIDTH, "height": HEIGHT}, b"\xff")
    assert told.value.code == "bad_mask"


def test_a_depth_that_is_not_finite(options: dict[str, Any], ask: Asked) -> None:
    model = loaded(options | {"pointmap": "moge"})
    with pytest.raises(ModelFault) as told:
        ask(model)
    assert told.value.code == "bad_pointmap"


# ---------------------------------------------------------------------- faster


def sampled(model: Sam3d) -> tuple[Any, Any]:
    """What both stages' samplers came to, of the last object."""
    return model._pipeline.structure.numpy(), model._pipeline.slat.numpy()


def test_exact_savings_change_nothing_and_save(options: dict[str, Any], ask: Asked) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    found, flops = {}, {}
    for savings in (False, True):
        model = Sam3d()
        info = model.load(options | {"exact_savings": savings})
        model.warm_up()
        assert info["exact_savings"] is savings
        ask(model)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            ask(model)  # another object: nothing of the first is taken for its own
        found[savings], flops[savings] = sampled(model), counter.get_total_flops()
    for ours, theirs in zip(found[True], found[False], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert flops[False] - flops[True] == saved(8, steps=15) + saved(500, steps=8)


def saved(tokens: int, *, steps: int) -> int:
    """FLOPs of keys and values at every pass but one, and of the unconditional passes' cross-attention."""
    channels, context, width, blocks = 16, 5, 12, 2
    unconditional = sum(step / steps <= 0.5 for step in range(steps))
    keys_and_values = 2 * context * width * 2 * channels
    attention = 2 * 2 * tokens * channels * channels + 2 * 2 * tokens * context * channels
    return blocks * ((steps + unconditional - 1) * keys_and_values + unconditional * attention)


def test_another_objects_tokens_are_not_taken_for_the_same(options: dict[str, Any], ask: Asked) -> None:
    import torch

    found = {}
    for savings in (False, True):
        model = loaded(options | {"exact_savings": savings})
        ask(model)
        pipeline = model._pipeline
        pipeline.get_condition_input = lambda *_: ((torch.linspace(2, -3, 7 * 12).reshape(1, 7, 12),), {})
        ask(model)
        found[savings] = sampled(model)
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[True][1], found[False][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("generator", ["ss_generator", "slat_generator"])
def test_a_stage_that_deviates_goes_back_to_upstreams(
    generator: str, options: dict[str, Any], ask: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = loaded(options | {"exact_savings": False})
    model = Sam3d()
    info = model.load(options)
    attention = model._pipeline.models[generator].reverse_fn.backbone
    [first, *_] = [module for module in attention.modules() if type(module).__name__ == "CrossAttention"]
    keep = first.keep

    def wrong(context: Any) -> bool:
        moved = bool(keep(context))
        first.values += 1.0
        return moved

    first.keep = wrong
    model.warm_up()
    assert info["exact_savings"] is False
    assert "exact savings deviate" in capsys.readouterr().err
    ask(plain)
    ask(model)
    for ours, theirs in zip(sampled(model), sampled(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_savings_that_fail_cost_only_their_gain(
    options: dict[str, Any], ask: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stream_worker.models.sam3d.backbones import Structure

    def broken(*args: Any, **rest: Any) -> None:
        raise RuntimeError("a graph can't be recorded here")

    monkeypatch.setattr(Structure, "_pass", broken)
    model = Sam3d()
    info = model.load(options)
    model.warm_up()
    assert info["exact_savings"] is False
    assert "no exact savings: RuntimeError: a graph can't be recorded here" in capsys.readouterr().err
    ask(model)


def test_a_backbone_of_another_make_stays_as_it_is(
    options: dict[str, Any], ask: Asked, upstream: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.Backbone.force_zeros_cond = False
    model = Sam3d()
    info = model.load(options)
    model.warm_up()
    assert info["exact_savings"] is False
    assert "stage 1: no exact savings" in capsys.readouterr().err
    ask(model)


def test_a_guidance_of_another_make_leaves_the_backbone_as_it_is(options: dict[str, Any], ask: Asked) -> None:
    from stream_worker.models.sam3d.backbones import Structure, Unsuitable

    model = loaded(options | {"exact_savings": False})
    backbone = model._pipeline.models["ss_generator"].reverse_fn.backbone
    forward, modules = backbone.forward, list(backbone.modules())
    with pytest.raises(Unsuitable, match="guidance"):
        Structure(backbone, graphs=True, guided=object())
    assert backbone.forward == forward
    assert list(backbone.modules()) == modules
    ask(model)


def test_the_step_cache_saves_steps(options: dict[str, Any], ask: Asked) -> None:
    model = loaded(options | {"step_cache": 1, "exact_savings": False})
    passes = model._pipeline.models["ss_generator"].reverse_fn.backbone.passes
    ask(model)
    passes.clear()
    ask(model)
    assert passes.count(False) == sum(computed(step, 15, 1) for step in range(15)) == 9


def test_which_steps_are_computed() -> None:
    assert all(computed(step, 15, 0) for step in range(15))
    assert [step for step in range(8) if computed(step, 8, 1)] == [0, 1, 3, 5, 7]
    assert [step for step in range(9) if computed(step, 9, 2)] == [0, 1, 4, 7, 8]


# ---------------------------------------------------------------------- compiling


def test_what_is_compiled(options: dict[str, Any], ask: Asked, upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    compiled: list[str] = []

    def compile_(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        compiled.append(f"{function.__qualname__} {how['mode']} {how['dynamic']}")
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    model = Sam3d()
    info = model.load(options | {"compile": True, "warm_up_runs": 2, "exact_savings": False})
    model.warm_up()
    assert info["compiled"] is True
    assert compiled == [
        "Decoder.forward default False",
        *["Block.forward default False"] * 2,
        "Decoder.forward default False",
        "modulated default True",
    ]
    assert len(upstream.CALLS) == 1 + 1 + 2  # made, tried out, warmed up
    ask(model)


def test_a_compiler_that_fails_costs_nothing(
    options: dict[str, Any], ask: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    def broken(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        def fails(*args: Any) -> None:
            raise RuntimeError("no C compiler")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    model = Sam3d()
    info = model.load(options | {"compile": True})
    model.warm_up()
    assert info["compiled"] is False
    assert "runs uncompiled: RuntimeError: no C compiler" in capsys.readouterr().err
    ask(model)
