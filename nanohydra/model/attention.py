"""Causal self-attention: multi-head, grouped-query and multi-query, over the whole past or a sliding window."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.data.batch import SHARED
from nanohydra.model import attention_cpu
from nanohydra.model.config import ModelConfig
from nanohydra.model.norms import RMSNorm
from nanohydra.model.positions import rotate


class Visible(NamedTuple):
    """Which keys each query sees."""

    mask: Tensor | None
    """Added to the scores, 0 or -inf (or ALiBi's bias): (B or 1, H or 1, T, S) in the keys' dtype. None: no mask."""
    is_causal: bool
    """Whether query i sees keys 0..i (only without a mask)."""


class CachePlan(Protocol):
    """What the model needs of a KV cache during one forward pass; `infer.cache.KVCache.rows` makes one.

    A place is a token's index in its own sequence, from 0. Calls come in this order: `begin` once, then `keys` and
    `sees_all` for each layer type, `update` for each layer, and `commit` once.
    """

    dtype: torch.dtype
    """Of the keys and values that `update` returns, where they are not just the new ones."""

    def begin(self, length: int) -> Tensor:
        """Plans a pass over `length` new tokens a row; returns their places (B, length) int64."""

    def keys(self, layer_type: str) -> Tensor | None:
        """The places (B, S) of the keys that `update` will return, below 0 for no key; None: just the new tokens."""

    def sees_all(self, layer_type: str) -> bool:
        """Whether every new token sees every key that `update` will return, so that no mask is needed."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores new k, v (B, T, KV heads, head_dim); returns all those to attend to, (B, S, KV heads, head_dim)."""

    def commit(self) -> None:
        """Called when all layers are done: the new tokens are part of the cache from here on."""


class Context(NamedTuple):
    """What all blocks share in one forward pass, computed once."""

    rope: tuple[Tensor, Tensor] | None
    """cos and sin for `rotate`; None: no rotary positions."""
    visible: dict[str, Visible]
    """For each layer type of the model."""
    cache: CachePlan | None


def visibility(
    queries: Tensor,
    keys: Tensor,
    dtype: torch.dtype,
    window: int | None = None,
    segments: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """The mask of `Visible` (B or 1, H or 1, T, S): 0 or ALiBi's -slope x distance where a query sees a key, else -inf.

    queries (B or 1, T) and keys (B or 1, S) are places in the sequence, a key's is below 0 where there is none;
    segments (B, T), for keys = queries, keeps a token within its own segment and a `SHARED` one; slopes (H,) are ALiBi's.
    """
    distance = queries.unsqueeze(-1) - keys.unsqueeze(-2)
    seen = (distance >= 0) & (keys >= 0).unsqueeze(-2)
    if window is not None:
        seen = seen & (distance < window)
    if segments is not None:
        own = segments.unsqueeze(-1) == segments.unsqueeze(-2)
        seen = seen & (own | (segments == SHARED).unsqueeze(-2))
    bias = torch.zeros((), dtype=dtype, device=queries.device)
    if slopes is not None:
        bias = (-slopes.view(-1, 1, 1) * distance.unsqueeze(1)).to(dtype)
    return torch.where(seen.unsqueeze(1), bias, float("-inf"))


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Visible) -> Tensor:
    """softmax(q k^T / sqrt(head_dim) + mask) v: q (B, T, H, head_dim) over k, v (B, S, KV heads, head_dim), for
    KV heads a divisor of H. Returns (B, T, H x head_dim) in q's dtype; works in k's (a cache may be kept in fp32)."""
    if attention_cpu.suits(q, k):
        return attention_cpu.blockwise_attention(q, k, v, visible.mask).flatten(2)
    y = F.scaled_dot_product_attention(
        q.to(k.dtype).transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=visible.mask,
        is_causal=visible.is_causal,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return y.transpose(1, 2).flatten(2).to(q.dtype)


class Attention(nn.Module):
    """Attention of one layer: x (B, T, D) -> (B, T, D).

    `observer`, where set, is called with q (B, T, H, head_dim), k (B, S, KV heads, head_dim) and the Visible of every
    forward pass, for diagnostics that want attention weights, which the fused kernel never shows.
    """

    observer: Callable[[Tensor, Tensor, Visible], None] | None = None

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.layer_type = config.layer_types[layer]
        self.head_dim = config.head_dim
        self.grouped = config.num_key_value_heads != config.num_attention_heads
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, config.query_size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, config.key_value_size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, config.key_value_size, bias=bias)
        self.o_proj = nn.Linear(config.query_size, config.hidden_size, bias=bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, context: Context) -> Tensor:
        heads = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = self.q_proj(x).view(heads), self.k_proj(x).view(heads), self.v_proj(x).view(heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if context.rope is not None:
            q, k = rotate(q, *context.rope), rotate(k, *context.rope)
        if context.cache is not None:
            k, v = context.cache.update(self.layer, k, v)
        visible = context.visible[self.layer_type]
        if self.observer is not None:
            self.observer(q, k, visible)
        return self.o_proj(attend(q, k, v, visible))  # type: ignore[no-any-return]
