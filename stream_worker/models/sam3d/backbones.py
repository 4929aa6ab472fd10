"""The two stages' transformers, run with what can be saved exactly: see `attention` and `graphs`.

Each class takes the place of a backbone's `forward`. Upstream's samplers, guidance and weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.utils import _pytree as pytree

from stream_worker.models.sam3d.attention import CrossAttention, Guidance, replaced
from stream_worker.models.sam3d.graphs import Beside, Graphed

Forward = Callable[..., Any]


class Unsuitable(Exception):
    """A backbone is not built as this module knows it: it stays as it is."""


class Backbone:
    """What the two stages have in common: the object's tokens, and a way back to upstream's arithmetic.

    Args:
        backbone: upstream's module, whose cross-attentions are replaced and whose `forward` this becomes.

    Raises Unsuitable where the module is not as it was when this was written; then nothing has been changed.
    """

    def __init__(self, backbone: Any) -> None:
        if not getattr(backbone, "force_zeros_cond", False):
            raise Unsuitable("its unconditional pass does not set the tokens to zero")
        self._guidance = Guidance()
        self._attentions: list[CrossAttention] = replaced(backbone, self._guidance)
        if not self._attentions:
            raise Unsuitable("it has no cross-attention")
        self._upstream: Forward = backbone.forward
        self._dtype = backbone.dtype
        self._tokens: Any = None
        self._nothing: Any = None
        self.compare = False
        self.deviation: float | None = None
        """The largest so far, as a share of upstream's root mean square; None where nothing was compared."""
        backbone.forward = self.forward

    def forward(self, x: Any, t: Any, tokens: Any, *others: Any, cfg: bool = False, **rest: Any) -> Any:
        """One pass of the sampler: velocities of the latents.

        Args:
            x: the latents of one object, as upstream has them: a dict of (B, N, C), or (1, N, 8).
            t: the time, 0 to 1000.
            tokens: of the photo, (B, L, C). Known again by identity: the sampler hands the same to all of an object.
            others: what upstream's forward takes besides, such as the voxels' coordinates.
            cfg: whether this is guidance's unconditional pass.
        """
        self._guidance.unconditional = cfg
        if self._guidance.as_upstream:
            return self._upstream(x, t, tokens, *others, cfg=cfg, **rest)
        self._keep(tokens)
        result = self._pass(x, t, *others, **rest)
        if self.compare:
            self._guidance.as_upstream = True
            try:
                self._note(result, self._upstream(x, t, tokens, *others, cfg=cfg, **rest))
            finally:
                self._guidance.as_upstream = False
        return result

    def give_up(self) -> None:
        """Compute as upstream does, from now on."""
        self._guidance.as_upstream = True
        for attention in self._attentions:
            attention.keys = attention.values = None
        self._tokens = self._nothing = None
        self._moved()  # what recorded their addresses goes as well

    def _pass(self, x: Any, t: Any, *others: Any, **rest: Any) -> Any:
        return self._upstream(x, t, self._nothing, *others, **rest)

    def _keep(self, tokens: Any) -> None:
        if tokens is self._tokens:
            return
        cast = tokens.type(self._dtype)
        moved = [attention.keep(cast) for attention in self._attentions]
        if any(moved):
            self._nothing = cast[:, :1]  # in the place of tokens that nobody looks at any more
            self._moved()
        self._tokens = tokens

    def _moved(self) -> None:
        """Keys and values lie in new memory."""

    def _note(self, ours: Any, theirs: Any) -> None:
        """Remember how far the two are apart."""
        for one, other in zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True):
            size = other.float().square().mean().sqrt().clamp_min(1e-12)
            share = float(((one - other).float().square().mean().sqrt() / size).item())
            self.deviation = max(self.deviation or 0.0, share) if share == share else float("inf")


class Structure(Backbone):
    """Stage 1's `SparseStructureFlowTdfyWrapper`: 4096 tokens of a grid of 16^3, and the pose's.

    Args:
        graphs: run each of guidance's two passes as a CUDA graph: all shapes of this stage are fixed.
        guided: upstream's `ClassifierFreeGuidance` around the backbone. Where it runs both passes of a step and there
            are graphs, the second plays beside the first; they do not depend on each other. Needed with graphs only.
    """

    def __init__(self, backbone: Any, *, graphs: bool, guided: Any = None) -> None:
        if graphs and not hasattr(guided, "inner_forward"):
            raise Unsuitable("its guidance is built otherwise")
        super().__init__(backbone)
        self._graphs = {cfg: Graphed(self._velocities) for cfg in (False, True)} if graphs else {}
        self._beside = Beside(self._graphs[True]) if graphs else None
        self._both = False
        if graphs:
            self._step = guided.inner_forward
            guided.inner_forward = self.step

    def step(self, x: Any, t: Any, is_cond: bool, *args: Any, **kwargs: Any) -> Any:
        """In the place of guidance's `inner_forward`, which says whether the conditional pass is the only one."""
        self._both = not is_cond
        try:
            return self._step(x, t, is_cond, *args, **kwargs)
        finally:
            self._both = False

    def _pass(self, x: Any, t: Any, *others: Any, **rest: Any) -> Any:
        if others or rest.keys() - {"d"}:
            raise Unsuitable(f"it is called with {len(others)} further conditions and {sorted(rest)}")
        given = x, t, rest.get("d")
        if self._beside is None:
            return self._velocities(*given)
        if self._guidance.unconditional:
            return self._beside.take(*given)
        if self._both:
            self._beside.begin(*given)
        return self._graphs[False](*given)

    def _velocities(self, x: Any, t: Any, d: Any) -> Any:
        return self._upstream(x, t, self._nothing, d=d)

    def _moved(self) -> None:
        for graph in self._graphs.values():
            graph.forget()


class Latents(Backbone):
    """Stage 2's `SLatFlowModelTdfyWrapper`: a token for each 2^3 voxels that hold something.

    Upstream wraps the tokens in a sparse tensor anew after every operation, some twenty times a block: that takes the
    host longer than the GPU needs for the work. Of one object's tokens nothing is sparse: here the blocks run on the
    plain (1, N, C) tensor, and upstream's sparse tensor returns after the last.
    """

    def __init__(self, backbone: Any) -> None:
        Torso.check(backbone.blocks)
        super().__init__(backbone)
        backbone.blocks = torch.nn.ModuleList([Torso(backbone.blocks, self._guidance)])
        # Upstream's convolutions look for each voxel's neighbours anew every time; those of one grid have the same.
        self._convolutions = [one for one in backbone.modules() if getattr(one, "subm", False)]

    def _pass(self, x: Any, t: Any, *others: Any, **rest: Any) -> Any:
        for one in self._convolutions:
            one.indice_key = "neighbours"
        try:
            return super()._pass(x, t, *others, **rest)
        finally:
            for one in self._convolutions:
                one.indice_key = None


class Torso(torch.nn.Module):  # type: ignore[misc]  # torch is not analysed, see pyproject.toml
    """Upstream's `ModulatedSparseTransformerCrossBlock`s (modules/sparse/transformer/modulated.py), of one object.

    The block is that of DiT (Peebles and Xie, arXiv 2212.09748, adaLN-Zero) with a cross-attention in between.
    """

    def __init__(self, blocks: Any, guidance: Guidance) -> None:
        super().__init__()
        self.blocks = blocks
        self.guidance = guidance

    @staticmethod
    def check(blocks: Any) -> None:
        """Raise Unsuitable for blocks of another make."""
        for block in blocks:
            attention = getattr(block, "self_attn", None)
            if getattr(attention, "attn_mode", None) != "full" or getattr(attention, "use_rope", True):
                raise Unsuitable("its self-attention is not full, or turns its tokens")
            if not all(hasattr(block, name) for name in ("norm1", "norm2", "norm3", "cross_attn", "mlp")):
                raise Unsuitable("its blocks have other parts")
            inner: Any = getattr(block.mlp, "mlp", ())
            if len(inner) != 3 or not isinstance(inner[1], torch.nn.GELU):
                raise Unsuitable("its feed-forward nets are built otherwise")

    def forward(self, h: Any, modulation: torch.Tensor, context: torch.Tensor) -> Any:
        """A sparse tensor of one object in, one out. Raises Unsuitable for a batch."""
        if self.guidance.as_upstream:
            for block in self.blocks:
                h = block(h, modulation, context)
            return h
        if h.shape[0] != 1:
            raise Unsuitable(f"a batch of {h.shape[0]} objects")
        x = h.feats[None]
        for block in self.blocks:
            x = modulated(block, x, modulation)
        return h.replace(x[0])


def modulated(block: Any, x: Any, modulation: Any) -> Any:
    """One block on (1, N, C), modulated by (1, C), or by (1, 6 C) where all blocks share their modulation."""
    parts = modulation if block.share_mod else block.adaLN_modulation(modulation)
    shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = parts[:, None].chunk(6, dim=2)
    h = block.norm1(x) * (1 + scale_attention) + shift_attention
    x = x + self_attention(block.self_attn, h) * gate_attention
    x = x + block.cross_attn(block.norm2(x))
    h = block.norm3(x) * (1 + scale_mlp) + shift_mlp
    first, activation, last = block.mlp.mlp
    h = functional.linear(h, first.weight, first.bias)
    h = functional.gelu(h, approximate=activation.approximate)
    return x + functional.linear(h, last.weight, last.bias) * gate_mlp


def self_attention(attention: Any, x: Any) -> Any:
    """Upstream's `SparseMultiHeadAttention` of the type self, full, on the tokens (1, N, C) of one object."""
    batch, tokens, _ = x.shape
    q, k, v = attention.to_qkv(x).reshape(batch, tokens, 3, attention.num_heads, -1).unbind(dim=2)
    if attention.qk_rms_norm:
        q, k = attention.q_rms_norm(q), attention.k_rms_norm(k)
    seen = functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return attention.to_out(seen.transpose(1, 2).reshape(batch, tokens, -1))
