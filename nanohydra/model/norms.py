"""Norms over the last dimension."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.model.config import ModelConfig


class RMSNorm(nn.Module):
    """weight * x / sqrt(mean(x^2) + eps), statistics in fp32: (..., D) (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if x.device.type == "cpu" and torch.is_grad_enabled():
            y: Tensor = _RMSNormCPU.apply(x, weight, self.eps)  # type: ignore[no-untyped-call]
            return y
        return F.rms_norm(x, weight.shape, weight, self.eps)


class _RMSNormCPU(torch.autograd.Function):
    """torch's own rms_norm, with a backward pass of a few plain kernels: 2 to 3 times as fast on a CPU.

    With r = 1 / sqrt(mean(x^2) + eps), n = r x and h = weight * grad: dx = r (h - n mean(h n)), dweight = sum(grad * n).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        x, weight, ctx.eps = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        size = weight.shape[0]
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(norm.square() / size + ctx.eps).to(x.dtype)
        normed = x * scale
        product = grad * normed
        mean = (product @ weight).unsqueeze(-1) / size
        dx = torch.addcmul(grad * weight, normed, mean, value=-1) * scale
        return dx, product.sum(tuple(range(grad.ndim - 1))), None


def make_norm(config: ModelConfig) -> nn.Module:
    """The norm of the residual stream: (..., D) -> (..., D)."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.hidden_size, eps=config.rms_norm_eps)
    return RMSNorm(config.hidden_size, config.rms_norm_eps)
