"""NF4 with double quantisation (QLoRA, Dettmers et al., arXiv 2305.14314): plain reference, and a frozen 4-bit layer.

A weight is cut into blocks of 64. A block is stored as its largest magnitude and, for each value, which of 16 levels
the ratio to that magnitude is nearest to: the levels are quantiles of a normal distribution, as weights nearly are. The
magnitudes are themselves stored in 8 bits, less their mean, in blocks of 256: 4.127 bits a weight in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64
SCALE_BLOCK = 256

NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The sixteen levels (arXiv 2305.14314, appendix E): even quantiles of N(0, 1) on either side of an exact zero."""


@dataclass(frozen=True)
class NF4:
    """A quantised tensor."""

    codes: Tensor
    """(ceil(n / 2),) uint8: two level numbers a byte, the earlier in the high half."""
    scale_codes: Tensor
    """(ceil(n / 64),) uint8: the blocks' magnitudes, as numbers into `dynamic_levels`."""
    scale_scales: Tensor
    """(ceil(blocks / 256),) fp32: the largest centred magnitude of every 256 blocks."""
    scale_mean: Tensor
    """() fp32: what the magnitudes were centred by."""
    shape: tuple[int, ...]
    """The tensor's shape."""

    def to(self, device: torch.device) -> NF4:
        """The same on another device."""
        codes, scale_codes = self.codes.to(device), self.scale_codes.to(device)
        return NF4(codes, scale_codes, self.scale_scales.to(device), self.scale_mean.to(device), self.shape)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(t.nbytes for t in (self.codes, self.scale_codes, self.scale_scales, self.scale_mean))


def dynamic_levels(device: torch.device | str = "cpu") -> Tensor:
    """(256,) fp32, ascending: the dynamic 8-bit levels (Dettmers et al., arXiv 2110.02861, section 2.1): sign, a unary
    exponent of ten from 1e-6 to 1, and the rest of the bits for a linear fraction; and 0 and 1."""
    values = [torch.zeros(1), torch.ones(1)]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1.0, 2**exponent + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent - 6)
        values += [middles, -middles]
    return torch.cat(values).sort().values.to(device)


def quantize(weight: Tensor) -> NF4:
    """Quantises a tensor of any shape and float type."""
    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(dim=1)
    levels = torch.tensor(NF4_LEVELS, device=flat.device)
    numbers = _nearest(blocks / scales.clamp_min(1e-38)[:, None], levels).flatten()[: len(flat) + len(flat) % 2]
    codes = (numbers[0::2] << 4) | numbers[1::2]

    mean = scales.mean()
    centred = F.pad(scales - mean, (0, -len(scales) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    scale_scales = centred.abs().amax(dim=1)
    dynamic = dynamic_levels(flat.device)
    scale_codes = _nearest(centred / scale_scales.clamp_min(1e-38)[:, None], dynamic).flatten()[: len(scales)]
    return NF4(codes, scale_codes, scale_scales, mean, tuple(weight.shape))


def dequantize(q: NF4, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor back, as near as 4 bits allow."""
    dynamic = dynamic_levels(q.codes.device)[q.scale_codes.long()]
    scales = dynamic * q.scale_scales.repeat_interleave(SCALE_BLOCK)[: len(dynamic)] + q.scale_mean
    levels = torch.tensor(NF4_LEVELS, device=q.codes.device)
    pairs = torch.cartesian_prod(levels, levels)  # (256, 2): both values of every byte in one look-up
    values = F.embedding(q.codes.int(), pairs).flatten()
    size = torch.Size(q.shape).numel()
    values = F.pad(values, (0, len(scales) * BLOCK - len(values))).view(-1, BLOCK) * scales[:, None]
    return values.flatten()[:size].view(q.shape).to(dtype)


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    """The number of the nearest level, as uint8. A value half way goes to the lower one."""
    return torch.bucketize(values.contiguous(), (levels[:-1] + levels[1:]) / 2).to(torch.uint8)


class NF4Linear(nn.Module):
    """A frozen linear layer whose weight is kept in NF4 and expanded for each product: (..., in) -> (..., out).

    The 4-bit weight is not part of the model's state: it is made from the base's own weight when that is loaded.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.out_features, linear.in_features
        self.dtype = linear.weight.dtype
        self.quantized = quantize(linear.weight)
        self.bias: nn.Parameter | None = linear.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NF4Linear:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # The scales follow the model's device but never its dtype.
        self.quantized = self.quantized.to(fn(self.quantized.scale_mean).device)
        return self

    @property
    def weight(self) -> Tensor:
        """(out, in) in the dtype it had, expanded anew at each reading."""
        return dequantize(self.quantized, self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias


class _FrozenProduct(torch.autograd.Function):
    """x W^T for a frozen W that is expanded again in the backward pass instead of being kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, dequantize(layer.quantized, x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ dequantize(ctx.layer.quantized, grad.dtype), None
