"""What diagnostics measure, as functions of tensors. All of it stays on the tensors' device until it is read.

Everything looks at a thin, evenly spread sample (some hundred rows of an activation, some ten thousand weights of a
matrix), so the cost does not grow with the model.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from nanohydra.model.attention import Visible
from nanohydra.train.diagnostics_log import BINS, REACH, SCALE

Kind = Literal["tanh", "sigmoid", "relu", "plain"]

ROWS = 512
"""Rows (positions) of an activation that one forward pass contributes at most."""
WEIGHTS = 1 << 16
"""Weights of a parameter that are compared before and after a step at most."""
QUERIES = 64
"""Query positions whose attention is looked at, in the first row of the batch."""
TANH_SATURATED = 0.97
"""Beyond this, tanh passes less than 6% of the gradient (1 - 0.97^2)."""
SIGMOID_SATURATED = 0.03
"""Within this of 0 or 1, a sigmoid passes less than 12% of its largest gradient (0.03 x 0.97 of 0.25)."""


def histogram(x: Tensor) -> Tensor:
    """How many elements of `x` (any shape) fall in each bin: (BINS,) float32. Infinities count in the outer bins."""
    return torch.histc(torch.asinh(x.float() / SCALE).clamp(-REACH, REACH), BINS, -REACH, REACH)


def thin_rows(x: Tensor, rows: int = ROWS) -> Tensor:
    """(..., D) to at most `rows` evenly spread rows (R, D) in float32.

    The stride is odd, so that it never falls in step with a power-of-two sequence length and sees the same positions
    only.
    """
    flat = x.detach().reshape(-1, x.shape[-1])
    stride = -(-len(flat) // rows)
    return flat[:: stride | 1].float()


def thin(parameter: Tensor, limit: int = WEIGHTS) -> Tensor:
    """At most `limit` evenly spread elements of `parameter`, as a 1-d copy in float32."""
    flat = parameter.detach().reshape(-1)
    stride = -(-len(flat) // limit)
    while math.gcd(stride, parameter.shape[-1] if parameter.ndim else 1) > 1:
        stride += 1  # a stride that shares a factor with the row length would visit the same columns only
    return flat[::stride].float().clone() if stride > 1 else flat.to(torch.float32, copy=True)


class ActivationMeter:
    """Adds up what one layer's activations are like over the forward passes of a step."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.calls = 0
        self.rows = 0
        self._sums: Tensor | None = None
        self._alive: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Takes in activations (..., D)."""
        sample = thin_rows(x)
        if self.kind == "tanh":
            flagged = (sample.abs() > TANH_SATURATED).sum()
        elif self.kind == "sigmoid":
            flagged = ((sample - 0.5).abs() > 0.5 - SIGMOID_SATURATED).sum()
        else:
            flagged = sample.new_zeros(())
        sums = torch.cat(
            [torch.stack([sample.sum(), sample.square().sum(), flagged]), histogram(thin_rows(sample, 64))]
        )
        self._sums = sums if self._sums is None else self._sums + sums
        if self.kind == "relu":
            alive = (sample != 0).any(0)
            self._alive = alive if self._alive is None else self._alive | alive
        self.calls += 1
        self.rows += len(sample)
        self._width = sample.shape[1]

    def result(self) -> Tensor:
        """(4 + BINS,): mean, standard deviation, saturated share of the activations, dead share of the units, and the
        histogram in thousandths. A unit is dead if it was 0 at all rows looked at."""
        assert self._sums is not None, "result() before add()"
        count = self.rows * self._width
        total, squares, flagged = self._sums[:3] / count
        dead = total.new_zeros(()) if self._alive is None else 1 - self._alive.float().mean()
        std = (squares - total.square()).clamp(min=0).sqrt()
        counts = self._sums[3:]
        return torch.cat([torch.stack([total, std, flagged, dead]), counts * (1000 / counts.sum())])


def logit_scale(logits: Tensor) -> Tensor:
    """(2,): the mean over positions of the standard deviation of the logits, and the largest distance from their mean.

    Only differences between logits count in a softmax, so each position's own mean is taken off first.
    """
    sample = thin_rows(logits, 64)
    sample = sample - sample.mean(1, keepdim=True)
    return torch.stack([sample.std(1).mean(), sample.abs().max()])


def attention_weights(q: Tensor, k: Tensor, visible: Visible, queries: Tensor | None = None) -> Tensor:
    """The attention weights (B, H, T, S) that the fused kernel never shows: softmax(q k^T / sqrt(head_dim) + mask).

    q (B, T, H, head_dim), k (B, S, KV heads, head_dim) as an `Attention.observer` is given them. queries: indices (Q,)
    of the query positions wanted, all when None; then the answer is (B, H, Q, S).
    """
    if queries is None:
        queries = torch.arange(q.shape[1], device=q.device)
    groups = q.shape[2] // k.shape[2]
    q = q[:, queries].transpose(1, 2).float()
    k = k.transpose(1, 2).repeat_interleave(groups, dim=1).float()
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if visible.mask is not None:
        scores = scores + visible.mask[..., queries, :].float()
    elif visible.is_causal:
        keys = torch.arange(k.shape[2], device=k.device)
        scores = scores.masked_fill(keys > queries[:, None], float("-inf"))
    return torch.softmax(scores, dim=-1)


def attention_entropy(q: Tensor, k: Tensor, visible: Visible) -> Tensor:
    """(2,): the entropy of the attention of the first row, in nats, mean over heads and positions; and the same as a
    share of the largest entropy possible (0: each position looks at one other only; 1: at all it sees alike)."""
    first = Visible(None if visible.mask is None else visible.mask[:1], visible.is_causal)
    queries = torch.linspace(0, q.shape[1] - 1, min(QUERIES, q.shape[1]), device=q.device).long()
    weights = attention_weights(q[:1].detach(), k[:1].detach(), first, queries)
    entropy = torch.special.entr(weights).sum(-1)
    if visible.mask is not None:
        seen = torch.isfinite(visible.mask[:1][..., queries, :]).sum(-1)
    elif visible.is_causal:
        seen = queries + 1
    else:
        seen = torch.tensor(k.shape[1], device=k.device)
    most = seen.float().log().expand_as(entropy)
    return torch.stack([entropy.mean(), entropy.sum() / most.sum().clamp(min=1e-9)])
