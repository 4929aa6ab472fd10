"""`InferencePipelinePointMap`, see sam3d_objects/pipeline/inference_pipeline_pointmap.py and inference_pipeline.py."""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import torch

from sam3d_objects.model.parts import (
    Backbone,
    Decoder,
    Embedder,
    Gaussian,
    Generator,
    SparseBackbone,
    ellipsoid,
)

CALLS: list[dict[str, Any]] = []
"""The arguments of every `run`, and of the constructor under "init"."""


def infer_intrinsics_from_pointmap(points, mask=None, fov_x=None, device=None):
    """Imported there from sam3d_objects/pipeline/utils/pointmap.py; (H, W, 3) in, `intrinsics` (3, 3) out."""
    return {"intrinsics": torch.full((3, 3), torch.nan)}


class Mesh:
    """What `to_glb` (tdfy_dit/utils/postprocessing_utils.py) gives: a `trimesh.Trimesh`."""

    def export(self, file_type):
        assert file_type == "glb"
        return struct.pack("<4sII", b"glTF", 2, 20) + struct.pack("<II", 0, 0x4E4F534A)


class InferencePipelinePointMap:
    def __init__(
        self,
        ss_generator_config_path,
        ss_generator_ckpt_path,
        slat_generator_config_path,
        slat_generator_ckpt_path,
        ss_decoder_config_path,
        ss_decoder_ckpt_path,
        slat_decoder_gs_config_path,
        slat_decoder_gs_ckpt_path,
        slat_decoder_mesh_config_path,
        slat_decoder_mesh_ckpt_path,
        slat_decoder_gs_4_config_path=None,
        slat_decoder_gs_4_ckpt_path=None,
        ss_encoder_config_path=None,
        ss_encoder_ckpt_path=None,
        decode_formats=("gaussian", "mesh"),
        dtype="bfloat16",
        device="cuda",
        workspace_dir="",
        rendering_engine="nvdiffrast",
        compile_model=False,
        *,
        depth_model,
        layout_post_optimization_method=None,
        clip_pointmap_beyond_scale=None,
        **rest,
    ):
        CALLS.append({"init": {name: value for name, value in locals().items() if name not in ("self", "rest")}})
        assert os.environ["LIDRA_SKIP_INIT"] == "true"
        self.workspace_dir = workspace_dir
        self.depth_model = depth_model
        self.device = torch.device(device)
        self.ss_preprocessor, self.slat_preprocessor = object(), object()
        for name in (ss_generator_ckpt_path, slat_generator_ckpt_path, ss_decoder_ckpt_path, slat_decoder_gs_ckpt_path):
            self._read(name)
        torch.manual_seed(0)
        self.condition_embedders = {"ss_condition_embedder": Embedder(), "slat_condition_embedder": Embedder()}
        self.models = torch.nn.ModuleDict(
            {
                "ss_generator": Generator(Backbone()),
                "slat_generator": Generator(SparseBackbone()),
                "ss_decoder": Decoder(),
                "slat_decoder_mesh": self.init_slat_decoder_mesh(
                    slat_decoder_mesh_config_path, slat_decoder_mesh_ckpt_path
                ),
            }
        )

    def _read(self, name: str) -> bytes:
        with open(os.path.join(self.workspace_dir, name), "rb") as file:
            return file.read()

    def init_slat_decoder_mesh(self, slat_decoder_mesh_config_path, slat_decoder_mesh_ckpt_path):
        self._read(slat_decoder_mesh_ckpt_path)  # no condition: None is a TypeError, as upstream
        return Decoder()

    def compute_pointmap(self, image, pointmap=None):
        if pointmap is None:
            pointmap = self.depth_model(torch.from_numpy(image))["pointmaps"]
        self.intrinsics = infer_intrinsics_from_pointmap(pointmap, device="cpu")["intrinsics"]
        if torch.isnan(pointmap).all():
            raise ValueError("all points are NaN")
        return {"pointmap": pointmap.permute(2, 0, 1)}

    def preprocess_image(self, image, preprocessor, pointmap=None):
        assert image.ndim == 3
        assert image.shape[-1] == 4
        assert image.dtype == np.uint8
        return {"image": torch.from_numpy(image)}

    def get_condition_input(self, condition_embedder, input_dict, input_mapping):
        return (condition_embedder(torch.linspace(-1, 1, 5 * 12).reshape(1, 5, 12)),), {}

    def sample_sparse_structure(self, ss_input_dict, inference_steps=None, use_distillation=False):
        tokens, _ = self.get_condition_input(self.condition_embedders["ss_condition_embedder"], ss_input_dict, [])
        generator = self.models["ss_generator"]
        generator.inference_steps = inference_steps
        with torch.no_grad():
            self.structure = generator({"shape": torch.randn(1, 8, 8)}, "cpu", *tokens)["shape"]
        self.models["ss_decoder"].forward(self.structure)
        coords = torch.zeros((500, 4), dtype=torch.int32)
        return {"coords": coords, "downsample_factor": 1}

    def sample_slat(self, slat_input, coords, inference_steps=25, use_distillation=False):
        tokens, _ = self.get_condition_input(self.condition_embedders["slat_condition_embedder"], slat_input, [])
        generator = self.models["slat_generator"]
        generator.inference_steps = inference_steps
        with torch.no_grad():
            self.slat = generator(torch.randn(1, len(coords), 8), "cpu", *tokens, coords.numpy())
        return self.slat

    def decode_slat(self, slat, formats=("mesh", "gaussian")):
        found = {"gaussian": [Gaussian(ellipsoid())]}
        if "mesh" in formats:
            found["mesh"] = [self.models["slat_decoder_mesh"](torch.ones(1))]
        return found

    def postprocess_slat_output(self, outputs, with_mesh_postprocess, with_texture_baking, use_vertex_color):
        outputs["glb"] = Mesh() if "mesh" in outputs else None
        outputs["gs"] = outputs["gaussian"][0]
        return outputs

    def run(
        self,
        image,
        mask=None,
        seed=None,
        stage1_only=False,
        with_mesh_postprocess=True,
        with_texture_baking=True,
        with_layout_postprocess=True,
        use_vertex_color=False,
        stage1_inference_steps=None,
        stage2_inference_steps=None,
        use_stage1_distillation=False,
        use_stage2_distillation=False,
        pointmap=None,
        decode_formats=None,
        estimate_plane=False,
    ):
        CALLS.append({name: value for name, value in locals().items() if name != "self"})
        points = self.compute_pointmap(image, pointmap)["pointmap"]
        ss_input_dict = self.preprocess_image(image, self.ss_preprocessor, pointmap=points)
        slat_input_dict = self.preprocess_image(image, self.slat_preprocessor)
        if seed is not None:
            torch.manual_seed(seed)
        outputs = self.sample_sparse_structure(ss_input_dict, inference_steps=stage1_inference_steps)
        slat = self.sample_slat(slat_input_dict, outputs["coords"], inference_steps=stage2_inference_steps)
        outputs.update(self.decode_slat(slat, decode_formats))
        outputs = self.postprocess_slat_output(outputs, with_mesh_postprocess, with_texture_baking, use_vertex_color)
        # The object stands on the masked points: as wide as they are, turned by a quarter about the camera's y axis.
        masked = points[:, torch.from_numpy(image[..., 3] > 0)]
        width = float(masked[0].max() - masked[0].min())
        return {
            **outputs,
            "rotation": torch.tensor([[0.5**0.5, 0.0, 0.5**0.5, 0.0]]),
            "translation": masked.mean(dim=1)[None],
            "scale": torch.full((1, 3), width),
        }
