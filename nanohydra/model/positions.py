"""How a model knows positions: rotary and ALiBi act in attention, learned and sinusoidal add to the embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nanohydra.model.config import ModelConfig, RopeScaling


class FixedTable(nn.Module):
    """A table of fp32 constants that follows the model's device but never its dtype: in bf16 the angles of late
    positions would be lost. It is not saved, and is built on the CPU even where the parameters are built on `meta`."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedTable:
        self.table = self.table.to(fn(self.table).device)  # every .to(), .half() and .to_empty() passes here
        return self


class Rotary(FixedTable):
    """Rotary positions (Su et al., arXiv 2104.09864), half-rotated as in Hugging Face Llama.

    forward: positions (B or 1, T) int64 -> cos and sin, each (B or 1, T, 1, head_dim) in `dtype`, for `rotate`;
    feature i is rotated together with feature i + head_dim / 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        angles = _angles(config.max_position_embeddings, rope_frequencies(config))
        cos, sin = angles.cos(), angles.sin()
        super().__init__(torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))))

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        cos, sin = self.table[:, positions].to(dtype).unsqueeze(-2)
        return cos, sin


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each pair, (head_dim / 2,): theta^(-2 i / head_dim), stretched if rope_scaling says so."""
    frequencies = _frequencies(config.rope_theta, config.head_dim)
    return frequencies if config.rope_scaling is None else _llama3(frequencies, config.rope_scaling)


def _frequencies(base: float, size: int) -> Tensor:
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size
    return 1.0 / base**exponents


def _angles(length: int, frequencies: Tensor) -> Tensor:
    return torch.outer(torch.arange(length, dtype=torch.float32, device="cpu"), frequencies)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Slow frequencies are divided by `factor`, fast ones stay, those between are interpolated (Llama 3.1's rule)."""
    turns = (
        scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    )  # full turns within the first context
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)
    return frequencies * (keep + (1 - keep) / scaling.factor)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates heads x (B, T, H, head_dim) by the angles of their positions; sin's first half comes negated."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class Sinusoidal(FixedTable):
    """positions (B or 1, T) -> (B or 1, T, D) fp32: sines and cosines to add to the embeddings (Vaswani et al., arXiv
    1706.03762, section 3.5; all sines first, then all cosines)."""

    def __init__(self, config: ModelConfig) -> None:
        angles = _angles(config.max_position_embeddings, _frequencies(10000.0, config.hidden_size))
        super().__init__(torch.cat((angles.sin(), angles.cos()), -1))

    def forward(self, positions: Tensor) -> Tensor:
        return self.table[positions]


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head (Press et al., arXiv 2108.12409): 2^(-8/n), 2^(-16/n), ... for n a power of two; for other
    counts those of the power below, then every second one of the power above."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return slopes + [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (heads - power), 2)]
