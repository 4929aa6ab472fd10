"""Modules with the attributes that the adapter touches: generators, embedders and the Gaussians."""

from __future__ import annotations

import itertools

import numpy as np
import torch


class Attention(torch.nn.Module):
    """`MultiHeadAttention` (tdfy_dit/modules/attention/modules.py) and, for sparse tensors, `SparseMultiHeadAttention`
    (tdfy_dit/modules/sparse/attention/modules.py): dense (B, L, C) or sparse (L, C) queries, context (B, L, C)."""

    def __init__(self, channels: int, context: int, heads: int, kind: str) -> None:
        super().__init__()
        self.num_heads, self._type, self.attn_mode, self.use_rope = heads, kind, "full", False
        self.qk_rms_norm = kind == "self"
        if kind == "self":
            self.to_qkv = torch.nn.Linear(channels, 3 * channels)
            self.q_rms_norm = self.k_rms_norm = torch.nn.Identity()
        else:
            self.to_q = torch.nn.Linear(channels, channels)
            self.to_kv = torch.nn.Linear(context, 2 * channels)
        self.to_out = torch.nn.Linear(channels, channels)

    def forward(self, x, context=None):
        dense = x.feats[None] if isinstance(x, SparseTensor) else x
        if self._type == "self":
            q, k, v = self.to_qkv(dense).chunk(3, dim=-1)
        else:
            q, (k, v) = self.to_q(dense), self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (q, k, v))
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        out = self.to_out((weights @ v).transpose(1, 2).flatten(2))
        return x.replace(out[0]) if isinstance(x, SparseTensor) else out


class SparseTensor:
    """`SparseTensor` (tdfy_dit/modules/sparse/basic.py) of one object: features (N, C) at coordinates (N, 4)."""

    def __init__(self, feats, coords):
        self.feats, self.coords, self.shape = feats, coords, (1, *feats.shape[1:])

    def replace(self, feats):
        return SparseTensor(feats, self.coords)


class Block(torch.nn.Module):
    """`MOTModulatedTransformerCrossBlock` with one latent, or `ModulatedSparseTransformerCrossBlock`: see there."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.share_mod = False
        self.norm1, self.norm3 = (torch.nn.LayerNorm(channels, elementwise_affine=False) for _ in range(2))
        self.norm2 = torch.nn.LayerNorm(channels)
        self.self_attn = Attention(channels, channels, 2, "self")
        self.cross_attn = Attention(channels, context, 2, "cross")
        self.mlp = torch.nn.Module()
        self.mlp.mlp = torch.nn.Sequential(
            torch.nn.Linear(channels, 4 * channels),
            torch.nn.GELU(approximate="tanh"),
            torch.nn.Linear(4 * channels, channels),
        )
        self.adaLN_modulation = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(channels, 6 * channels))

    def forward(self, x, mod, context):
        sparse = x if isinstance(x, SparseTensor) else None
        x = x.feats[None] if sparse else x
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(mod)[:, None].chunk(6, dim=-1)
        x = x + self.self_attn(self.norm1(x) * (1 + scale) + shift) * gate
        x = x + self.cross_attn(self.norm2(x), context)
        x = x + self.mlp.mlp(self.norm3(x) * (1 + scale_mlp) + shift_mlp) * gate_mlp
        return sparse.replace(x[0]) if sparse else x


class Backbone(torch.nn.Module):
    """`SparseStructureFlowTdfyWrapper` (tdfy_dit/models/mot_sparse_structure_flow.py): a dict of latents (B, N, 8)."""

    force_zeros_cond = True
    dtype = torch.float32

    def __init__(self, channels: int = 16, context: int = 12, blocks: int = 2) -> None:
        super().__init__()
        self.input_layer, self.out_layer = torch.nn.Linear(8, channels), torch.nn.Linear(channels, 8)
        self.t_embedder = torch.nn.Linear(1, channels)
        self.blocks = torch.nn.ModuleList([Block(channels, context) for _ in range(blocks)])
        self.passes: list[bool] = []

    def forward(self, x, t, cond, *others, d=None, cfg=False):
        self.passes.append(cfg)
        mod = self.t_embedder(t.reshape(1, 1) / 1000 + (0 if d is None else d.reshape(1, 1)))
        return self.through(x, mod, cond * 0 if cfg else cond, *others)

    def through(self, x, mod, cond):
        h = self.input_layer(x["shape"])
        for block in self.blocks:
            h = block(h, mod, cond)
        return {"shape": self.out_layer(h)}


class SparseBackbone(Backbone):
    """`SLatFlowModelTdfyWrapper` (tdfy_dit/models/structured_latent_flow.py): (1, N, 8), and coordinates (N, 4)."""

    def through(self, x, mod, cond, coords):
        h = SparseTensor(self.input_layer(x[0]), torch.from_numpy(coords))
        for block in self.blocks:
            h = block(h, mod, cond)
        return self.out_layer(h.feats)[None]


class ReverseFn(torch.nn.Module):
    """`ClassifierFreeGuidance` (model/backbone/generator/classifier_free_guidance.py), `add_flag`, while t <= 500."""

    strength = 2.0

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x, t, *args, **kwargs):
        return self.inner_forward(x, t, not t <= 500, self.strength, *args, **kwargs)

    def inner_forward(self, x, t, is_cond, strength, *args, **kwargs):
        y = self.backbone(x, t, *args, **kwargs)
        if is_cond:
            return y
        other = self.backbone(x, t, *args, cfg=True, **kwargs)
        if isinstance(y, dict):
            return {name: (1 + strength) * y[name] - strength * other[name] for name in y}
        return (1 + strength) * y - strength * other


class Generator(torch.nn.Module):
    """`FlowMatching` (model/backbone/generator/flow_matching/model.py) with Euler's method: t runs from 0 to 1."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.reverse_fn = ReverseFn(backbone)
        self.inference_steps = 25

    def _generate_dynamics(self, x, t, *args, **kwargs):
        return self.reverse_fn(x, t * 1000, *args, **kwargs)

    def forward(self, x, device, *args, **kwargs):
        times = torch.linspace(0, 1, self.inference_steps + 1)
        for t, after in itertools.pairwise(times):
            v = self._generate_dynamics(x, t, *args, **kwargs)
            step = after - t
            x = {name: x[name] + v[name] * step for name in x} if isinstance(x, dict) else x + v * step
        return x


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
