"""Modules with the attributes that the adapter touches: generators, embedders and the Gaussians."""

from __future__ import annotations

import numpy as np
import torch


class ReverseFn(torch.nn.Module):
    """`ClassifierFreeGuidance` (model/backbone/generator/classifier_free_guidance.py): `inner_forward` is compiled."""

    def inner_forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2.0


class Generator(torch.nn.Module):
    """`ShortCut` (model/backbone/generator/shortcut/model.py)."""

    def __init__(self) -> None:
        super().__init__()
        self.reverse_fn = ReverseFn()
        self.inference_steps = 25


class Decoder(torch.nn.Module):
    """`SparseStructureDecoder` (model/backbone/tdfy_dit/models/sparse_structure_vae.py)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1.0


class Embedder(torch.nn.Module):
    """`EmbedderFuser` (model/backbone/dit/embedder/embedder_fuser.py): a list of (embedder, what it embeds)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder_list = [(Decoder(), [("image", None)])]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedder_list[0][0](x)


class Gaussian:
    """`Gaussian` (model/backbone/tdfy_dit/representations/gaussian/gaussian_model.py), N of them, float32."""

    def __init__(self, xyz: np.ndarray) -> None:
        count = len(xyz)
        self.aabb = torch.tensor([-0.5, -0.5, -0.5, 1.0, 1.0, 1.0])
        self.opacity_bias = torch.tensor(-2.1972)  # inverse_sigmoid(0.1)
        self.scale_bias = torch.log(torch.tensor(0.01))
        self.rots_bias = torch.tensor([1.0, 0.0, 0.0, 0.0])
        self._xyz = (torch.from_numpy(xyz.astype(np.float32)) - self.aabb[:3]) / self.aabb[3:]
        self._features_dc = torch.linspace(-1, 1, 3 * count).reshape(count, 1, 3)
        self._opacity = torch.full((count, 1), 6.0)
        self._opacity[0] = 40.0  # a sigmoid that rounds to 1: its logit is infinite
        self._scaling = torch.zeros(count, 3)
        self._rotation = torch.zeros(count, 4)

    @property
    def get_xyz(self) -> torch.Tensor:
        return self._xyz * self.aabb[None, 3:] + self.aabb[None, :3]

    @property
    def get_opacity(self) -> torch.Tensor:
        return torch.sigmoid(self._opacity + self.opacity_bias)

    @property
    def get_scaling(self) -> torch.Tensor:
        return torch.exp(self._scaling + self.scale_bias)


RADII = np.array([0.5, 0.3, 0.4])
"""Of the ellipsoid, in the object's own frame."""


def ellipsoid(count: int = 40_000) -> np.ndarray:
    """Points (count, 3) spread evenly over its surface: a Fibonacci lattice, squeezed."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    angle = np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - z * z)
    return np.stack((ring * np.cos(angle), ring * np.sin(angle), z), axis=1) * RADII
