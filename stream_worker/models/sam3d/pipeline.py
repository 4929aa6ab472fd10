"""Upstream's pipeline, built from its `pipeline.yaml` without its notebook module.

`notebook/inference.py` would want gradio, kaolin, seaborn and CONDA_PREFIX. What it does besides is done here: it names
the rendering engine and the folder, switches upstream's own compiling off (its warm-up calls a method that does not
exist), and checks what the configuration may instantiate (see `targets`).
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from stream_worker.geometry import pointmap
from stream_worker.models.protocol import ModelFault
from stream_worker.models.sam3d import checkpoint, targets
from stream_worker.models.sam3d.options import Options

PIPELINE_CLASS = "sam3d_objects.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap"

_NOT_FOR_GAUSSIANS = ("slat_decoder_gs_4",)
"""A decoder of fewer Gaussians a voxel, which no format that we offer needs."""


def configuration(folder: Path) -> dict[str, Any]:
    """`pipeline.yaml`, with every configuration that it names checked. Interpolations stay as they are written.

    Raises ModelFault "weights_missing", "weights_refused", or "import_failed" where upstream's environment is missing.
    """
    try:
        omegaconf = import_module("omegaconf")
    except ImportError as error:
        raise ModelFault("import_failed", f"SAM 3D Objects is not installed here: {error}") from error

    def read(name: str) -> Any:
        try:
            return omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(folder / name), resolve=False)
        except OSError as error:
            raise ModelFault("weights_missing", f"{folder / name} can't be read: {error.strerror or error}") from error
        except Exception as error:  # yaml's and omegaconf's own errors
            raise ModelFault(
                "weights_refused", f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error

    config = read(checkpoint.PIPELINE)
    if not isinstance(config, dict) or config.get("_target_") != PIPELINE_CLASS:
        raise ModelFault("weights_refused", f"{checkpoint.PIPELINE}: its _target_ must be {PIPELINE_CLASS}")
    targets.check(config, checkpoint.PIPELINE)
    checkpoint.files(config)  # before any of them is opened: none lies outside of the folder
    for key, name in config.items():
        if key.endswith("_config_path") and name is not None:  # upstream reads it as YAML, whatever its name ends with
            targets.check(read(name), name)
    return config


def without_what_is_not_needed(config: dict[str, Any], options: Options) -> dict[str, Any]:
    """The configuration of a pipeline that loads only what these options use.

    The mesh decoder and the depth network stay away by None in place of their paths and model; upstream asks for the
    mesh decoder's paths without a condition, see `build`.
    """
    unused = list(_NOT_FOR_GAUSSIANS)
    if not options.mesh:
        unused.append("slat_decoder_mesh")
    lean = dict(config)
    for name in unused:
        lean[f"{name}_config_path"] = lean[f"{name}_ckpt_path"] = None
    lean["ss_encoder_config_path"] = lean["ss_encoder_ckpt_path"] = None  # only training encodes
    if options.pointmap == "pinhole":
        lean["depth_model"] = None
    lean["decode_formats"] = options.formats
    return lean


def build(config: dict[str, Any], folder: Path, device: str) -> Any:
    """Instantiate the pipeline of a checked configuration: loads all weights, onto `device`.

    Raises ModelFault "import_failed" where upstream's package is missing.
    """
    os.environ["LIDRA_SKIP_INIT"] = "true"  # upstream's package init would load its training set-up
    try:
        hydra, omegaconf = import_module("hydra.utils"), import_module("omegaconf")
        import_module("sam3d_objects")
        module = import_module(PIPELINE_CLASS.rpartition(".")[0])
    except ImportError as error:
        raise ModelFault("import_failed", f"SAM 3D Objects is not installed here: {error}") from error
    pipeline_class = getattr(module, PIPELINE_CLASS.rpartition(".")[2])
    _let_decoders_be_absent(pipeline_class)
    config = {
        **config,
        "rendering_engine": "pytorch3d",
        "compile_model": False,
        "workspace_dir": str(folder),
        "device": device,
    }
    return hydra.instantiate(omegaconf.OmegaConf.create(config))


def know_the_camera(torch: Any) -> None:
    """Give the pipeline the pinhole's intrinsics, where it would recover them from the point map that it is given.

    The recovery is MoGe's least squares on the host. From a plane it can't tell focal length from distance, it takes
    time at every object, and its NaN are why the guide came to a synthetic point map at all. Only the refinement of the
    layout uses what comes of it. The answer has the form of `infer_intrinsics_from_pointmap` (upstream's
    pipeline/utils/pointmap.py): `intrinsics` (3, 3) in units of the photo's width and height, as utils3d has them.
    """

    def known(points: Any, *_: Any, **__: Any) -> dict[str, Any]:
        height, width = points.shape[-3:-1]
        focal = pointmap.Pinhole.of(width, height).focal
        rows = [[focal / width, 0.0, 0.5], [0.0, focal / height, 0.5], [0.0, 0.0, 1.0]]
        return {"intrinsics": torch.tensor(rows, dtype=torch.float32, device=points.device)}

    import_module(PIPELINE_CLASS.rpartition(".")[0]).__dict__["infer_intrinsics_from_pointmap"] = known


def _let_decoders_be_absent(pipeline_class: Any) -> None:
    """Let `init_slat_decoder_mesh(None, None)` give None, as upstream's `init_slat_decoder_gs` does."""
    load = pipeline_class.init_slat_decoder_mesh
    if getattr(load, "may_be_absent", False):
        return

    def init_slat_decoder_mesh(self: Any, config_path: str | None, ckpt_path: str | None) -> Any:
        return None if config_path is None else load(self, config_path, ckpt_path)

    init_slat_decoder_mesh.may_be_absent = True  # type: ignore[attr-defined]  # a mark on our own function: it is put there once
    pipeline_class.init_slat_decoder_mesh = init_slat_decoder_mesh
