"""Cross-attention that computes once per object what does not change from step to step.

Both stages of SAM 3D Objects walk from noise to a sample in steps, and at every step each block looks at the same
tokens of the photo. Two exact savings follow:

- Its keys and values depend on the tokens alone: they are computed once per object, not once per pass.
- Guidance runs a second, unconditional pass, in which upstream sets all tokens to zero. All keys are then the same and
  so are all values; the softmax weighs equal things, and the answer is one constant row whatever is asked. It is
  computed once per process.

What remains is upstream's arithmetic in the same precision; only the order of some sums differs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class Guidance:
    """What all cross-attentions of a backbone go by: which of guidance's two passes runs, and how."""

    def __init__(self) -> None:
        self.unconditional = False
        self.as_upstream = False
        """Compute everything anew, as upstream does: to compare with."""


class CrossAttention(torch.nn.Module):  # type: ignore[misc]  # torch is not analysed, see pyproject.toml
    """Stands in for upstream's `MultiHeadAttention` or `SparseMultiHeadAttention` of the type cross, with its weights.

    Args:
        inner: upstream's module: linear maps `to_q`, `to_kv` and `to_out`, `num_heads`, and where `qk_rms_norm` is
            set `q_rms_norm` and `k_rms_norm`. See modules/attention/modules.py and modules/sparse/attention/modules.py.
        guidance: says whether the pass is unconditional.
    """

    def __init__(self, inner: Any, guidance: Guidance) -> None:
        super().__init__()
        self.inner = inner
        self.guidance = guidance
        self.keys: torch.Tensor | None = None
        self.values: torch.Tensor | None = None
        self.constant: torch.Tensor | None = None

    def keep(self, context: torch.Tensor) -> bool:
        """Compute keys and values of the tokens (B, L, C). True where they lie in new memory: graphs know the old."""
        keys, values = self._keys_and_values(context)
        if self.constant is None:
            self.constant = self._unconditional(context)
        known = self.keys
        if known is not None and known.shape == keys.shape and known.dtype == keys.dtype:
            known.copy_(keys)
            assert self.values is not None
            self.values.copy_(values)
            return False
        self.keys, self.values = keys.contiguous(), values.contiguous()
        return True

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """(B, N, C) -> (B, N, C). The context is what `keep` was given; it is not looked at again."""
        if self.guidance.as_upstream:
            return self.inner(x, context)
        if self.guidance.unconditional:
            return self.constant.expand(*x.shape[:2], -1)  # type: ignore[union-attr]  # kept before the first pass
        batch, tokens, _ = x.shape
        queries = self.inner.to_q(x).reshape(batch, tokens, self.inner.num_heads, -1)
        if self.inner.qk_rms_norm:
            queries = self.inner.q_rms_norm(queries)
        seen = functional.scaled_dot_product_attention(queries.transpose(1, 2), self.keys, self.values)
        return self.inner.to_out(seen.transpose(1, 2).reshape(batch, tokens, -1))

    def _keys_and_values(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each (B, heads, L, C / heads)."""
        batch, tokens, _ = context.shape
        both = self.inner.to_kv(context).reshape(batch, tokens, 2, self.inner.num_heads, -1)
        keys, values = both.unbind(dim=2)
        if self.inner.qk_rms_norm:
            keys = self.inner.k_rms_norm(keys)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def _unconditional(self, context: torch.Tensor) -> torch.Tensor:
        """The row (1, 1, C) that attention to tokens of zeros gives."""
        _, values = self._keys_and_values(torch.zeros_like(context[:1, :1]))
        return self.inner.to_out(values.transpose(1, 2).reshape(1, 1, -1))


def replaced(module: Any, guidance: Guidance) -> list[CrossAttention]:
    """Put a CrossAttention in the place of every cross-attention under a module, in order."""
    found: list[CrossAttention] = []
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if getattr(child, "_type", None) == "cross" and hasattr(child, "to_kv"):
                parent._modules[name] = CrossAttention(child, guidance)
                found.append(parent._modules[name])
    return found
