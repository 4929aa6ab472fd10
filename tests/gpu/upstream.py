"""Upstream's real pipeline with random weights, as the adapter loads it: the cost does not depend on the weights.

What it needs beside a CUDA GPU, and does not come with this repository:

- `SAM3D_UPSTREAM`: a folder with upstream's package `sam3d_objects`, the package `pytorch3d` (its transforms suffice),
  and a checkout of facebookresearch/dinov2 as `dinov2`;
- `SAM3D_CONFIGS`: the folder with `pipeline.yaml` and the configurations that it names, as published with the weights;
- spconv, and upstream's small dependencies (omegaconf, hydra-core, optree, loguru, easydict, astor, plyfile).

Stand-ins: packages that only post-processing, rendering or training use are empty modules (`ABSENT`), and flash_attn is
PyTorch's own flash attention under that package's names. The weights are drawn at random; layers that start at zero are
drawn too, or whole blocks would do nothing. The voxels are a shell of as many as are asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

UPSTREAM, CONFIGS = "SAM3D_UPSTREAM", "SAM3D_CONFIGS"
ABSENT = (
    "gsplat",
    "igraph",
    "kaolin",
    "lightning",
    "moge",
    "nvdiffrast",
    "open3d",
    "pymeshfix",
    "pytorch3d.renderer",
    "pytorch3d.structures",
    "pyvista",
    "seaborn",
    "trimesh",
    "utils3d",
    "xatlas",
)
PARTS = ("ss_generator", "slat_generator", "ss_decoder", "slat_decoder_gs", "slat_decoder_gs_4", "slat_decoder_mesh")
GRID = 64


def missing() -> str | None:
    """Why the pipeline can't be built here; None where it can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    if not torch.cuda.is_available():
        return "no CUDA GPU"
    for name in (UPSTREAM, CONFIGS):
        if not os.environ.get(name) or not Path(os.environ[name]).is_dir():
            return f"{name} names no folder: see tests/gpu/upstream.py"
    return None if importlib.util.find_spec("spconv") else "spconv is not installed"


def prepared(folder: Path, **options: Any) -> dict[str, Any]:
    """Make upstream's package importable, and a checkpoint folder of its configurations; the options to load it."""
    sys.path.insert(0, os.environ[UPSTREAM])
    leave_out()
    sys.modules.setdefault("flash_attn", _flash_attn())
    _random_weights()
    folder.mkdir(exist_ok=True)
    for part in ("pipeline", *PARTS):
        (folder / f"{part}.yaml").write_bytes(Path(os.environ[CONFIGS], f"{part}.yaml").read_bytes())
        if part != "pipeline":
            (folder / f"{part}.ckpt").write_bytes(b"random")
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(folder.iterdir())]
    pins = folder.with_suffix(".sha256")
    pins.write_text("".join(sums))
    return {"checkpoint": str(folder), "sha256sums": str(pins), "device": "auto", "warm_up_runs": 1} | options


def force_voxels(pipeline: Any, count: int) -> None:
    """Have stage 1's decoder find a shell of so many voxels, whatever the noise says. It still does its work."""
    import torch

    axis = torch.arange(GRID) - (GRID - 1) / 2
    far = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).square().sum(0).sqrt()
    radius = min(29.0, (count / (4 * torch.pi * 1.5)) ** 0.5)
    nearest = (far - radius).abs().flatten().argsort()[:count]
    grid = -torch.ones(GRID**3)
    grid[nearest] = 1.0
    grid = grid.reshape(1, 1, GRID, GRID, GRID).cuda()
    decoder = pipeline.models["ss_decoder"]
    upstream = getattr(decoder, "unforced", None) or decoder.forward
    decoder.unforced = upstream
    decoder.forward = lambda *args: upstream(*args) * 0 + grid


def leave_out(*more: str) -> None:
    """Let modules that are not needed be imported, where they are not installed, as empty ones."""
    sys.meta_path.append(_Absent((*ABSENT, *more)))


class _Absent:
    """Finds modules that are absent."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if any(name == absent or name.startswith(absent + ".") for absent in self._names):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Nothing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


class _Nothing(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


def _random_weights() -> None:
    """Instead of opening checkpoints, keep what the modules were made with; draw what was made zero."""
    import torch

    load = torch.hub.load

    def local(repo_or_dir: str, model: str, source: str = "github", **kwargs: Any) -> Any:
        return load(str(Path(os.environ[UPSTREAM], "dinov2")), model, source="local", pretrained=False)

    torch.hub.load = local
    os.environ["LIDRA_SKIP_INIT"] = "true"
    from sam3d_objects.pipeline import inference_pipeline

    def instantiated(
        self: Any, config: Any, ckpt_path: str, state_dict_fn: Any = None, state_dict_key: Any = "", device: Any = None
    ) -> Any:
        torch.manual_seed(0)
        model = inference_pipeline.instantiate(config).to(device).eval().requires_grad_(False)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        return model

    inference_pipeline.InferencePipeline.instantiate_and_load_from_pretrained = instantiated
    # A GLB is made with packages that are absent here: where a mesh is decoded, it stops at the mesh.
    inference_pipeline.postprocessing_utils.to_glb = lambda *args, **kwargs: None


def _flash_attn() -> types.ModuleType:
    """flash_attn's functions that upstream calls, by PyTorch's flash attention. Shapes as there: (N, L, H, C)."""
    import torch
    from torch.nn import functional

    module = types.ModuleType("flash_attn")
    module.__spec__ = ModuleSpec("flash_attn", None)

    def dense(q: Any, k: Any, v: Any) -> Any:
        return functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    def varlen(q: Any, k: Any, v: Any, starts_q: Any, starts_k: Any, most_q: int, most_k: int) -> Any:
        return torch.ops.aten._flash_attention_forward(q, k, v, starts_q, starts_k, most_q, most_k, 0.0, False, False)[
            0
        ]

    module.flash_attn_func = dense
    module.flash_attn_kvpacked_func = lambda q, kv: dense(q, *kv.unbind(2))
    module.flash_attn_qkvpacked_func = lambda qkv: dense(*qkv.unbind(2))
    module.flash_attn_varlen_func = varlen
    module.flash_attn_varlen_kvpacked_func = lambda q, kv, *sizes: varlen(q, *kv.unbind(1), *sizes)
    module.flash_attn_varlen_qkvpacked_func = lambda qkv, starts, most: varlen(
        *qkv.unbind(1), starts, starts, most, most
    )
    return module
