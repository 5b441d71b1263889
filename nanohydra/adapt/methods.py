"""The adapters of one linear layer: LoRA (with rsLoRA's scale), DoRA, LoHa and LoKr.

Each turns the layer's weight W (out, in) into another: W + s B A, or for DoRA its rows rescaled. Whatever the method,
the update is a product of two factors, so a batch whose rows have different adapters needs one kind of kernel only.
Tensors have PEFT's names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.adapt.config import AdapterConfig


class AdapterLayer(nn.Module):
    """The update s B A of one linear layer. Parameters are fp32 unless loaded otherwise."""

    def __init__(self, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = dropout

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (R, in) and B (out, R), differentiable; the update is scale x B A. R may exceed the nominal rank."""
        raise NotImplementedError

    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight it is made for."""
        raise NotImplementedError

    def reset(self, generator: torch.Generator | None) -> None:
        """Initial values, with which the update is zero."""
        raise NotImplementedError

    def delta(self) -> Tensor:
        """The update as a matrix (out, in)."""
        a, b = self.factors()
        return self.scale * (b @ a)

    def merged(self, weight: Tensor) -> Tensor:
        """The adapted weight (out, in), computed in fp32."""
        return weight.float() + self.delta().float()

    def gain(self, weight: Callable[[], Tensor]) -> Tensor | None:
        """(out,) factor on the whole output, bias apart; None where the method has none. `weight` gives W."""
        return None

    def forward(self, x: Tensor, y: Tensor, weight: Callable[[], Tensor], bias: Tensor | None) -> Tensor:
        """The adapted output (..., out), from the layer's input x (..., in) and its output y."""
        a, b = self.factors()
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(a.dtype)
        if self.dropout and self.training and a.requires_grad:  # a frozen adapter is part of the base: it never drops
            x = F.dropout(x, self.dropout)
        hidden = F.linear(x, a)
        gain = self.gain(weight)
        if gain is None:
            base = y if torch.is_autocast_enabled(x.device.type) else y.to(a.dtype)
            # One kernel for scale, product and sum: nothing of the size of y is kept for the backward pass.
            out = torch.addmm(base.flatten(0, -2), hidden.flatten(0, -2), b.t(), alpha=self.scale)
            return out.view(y.shape).to(y.dtype)
        plain = y if bias is None else y - bias
        out = gain * (plain + self.scale * F.linear(hidden, b))
        return (out if bias is None else out + bias).to(y.dtype)


class LoRA(AdapterLayer):
    """W + s B A (Hu et al., arXiv 2106.09685). A starts uniform, B at zero."""

    def __init__(self, out_features: int, in_features: int, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(scale, dropout)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.empty(out_features, rank))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.lora_A, self.lora_B

    def shape(self) -> tuple[int, int]:
        return self.lora_B.shape[0], self.lora_A.shape[1]

    def reset(self, generator: torch.Generator | None) -> None:
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.lora_B)


class DoRA(LoRA):
    """m (W + s B A) / |W + s B A|, row by row (Liu et al., arXiv 2402.09353). The length below the bar is a constant to
    the gradient (section 4.3); m starts as W's row lengths."""

    def __init__(self, out_features: int, in_features: int, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(out_features, in_features, rank, scale, dropout)
        self.lora_magnitude_vector = nn.Parameter(torch.empty(out_features))

    @torch.no_grad()
    def start_from(self, weight: Tensor) -> None:
        """Sets m to the row lengths of the weight below, so that the adapter begins as the identity."""
        self.lora_magnitude_vector.copy_(torch.linalg.vector_norm(weight.float() + self.delta(), dim=1))

    def gain(self, weight: Callable[[], Tensor]) -> Tensor | None:
        with torch.no_grad(), torch.autocast(self.lora_A.device.type, enabled=False):
            length = torch.linalg.vector_norm(weight().float() + self.delta().float(), dim=1)
        gain: Tensor = self.lora_magnitude_vector / length.clamp_min(1e-12)
        return gain

    def merged(self, weight: Tensor) -> Tensor:
        return self.lora_magnitude_vector.float()[:, None] * F.normalize(super().merged(weight), dim=1)


class LoHa(AdapterLayer):
    """W + s (B1 A1) * (B2 A2), elementwise: rank up to r^2 from 2 r (in + out) numbers (FedPara, arXiv 2108.06098).

    Exactly the product of row-wise and column-wise Kronecker products of its factors, so never formed as a matrix.
    """

    def __init__(self, out_features: int, in_features: int, rank: int, scale: float) -> None:
        super().__init__(scale)
        self.hada_w1_a = nn.Parameter(torch.empty(out_features, rank))
        self.hada_w1_b = nn.Parameter(torch.empty(rank, in_features))
        self.hada_w2_a = nn.Parameter(torch.empty(out_features, rank))
        self.hada_w2_b = nn.Parameter(torch.empty(rank, in_features))

    def factors(self) -> tuple[Tensor, Tensor]:
        a = (self.hada_w1_b[:, None] * self.hada_w2_b[None]).flatten(0, 1)
        b = (self.hada_w1_a[:, :, None] * self.hada_w2_a[:, None]).flatten(1)
        return a, b

    def shape(self) -> tuple[int, int]:
        return self.hada_w1_a.shape[0], self.hada_w1_b.shape[1]

    def reset(self, generator: torch.Generator | None) -> None:
        for tensor in (self.hada_w1_a, self.hada_w1_b, self.hada_w2_a):
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(self.hada_w2_b)


class LoKr(AdapterLayer):
    """W + s (W1 kron W2) (LyCORIS, arXiv 2309.14859). Either factor is a full matrix or a product W_a W_b of rank r.

    W1 is (l, m) and W2 (k, n), where l k = out and m n = in.
    """

    def __init__(self, out_features: int, in_features: int, rank: int, scale: float, factor: int, both: bool) -> None:
        super().__init__(scale)
        (rows1, rows2), (columns1, columns2) = split(out_features, factor), split(in_features, factor)
        self._make("lokr_w1", rows1, columns1, rank, low=both and rank < max(rows1, columns1) / 2)
        self._make("lokr_w2", rows2, columns2, rank, low=rank < max(rows2, columns2) / 2)

    def _make(self, name: str, rows: int, columns: int, rank: int, low: bool) -> None:
        if low:
            self.register_parameter(f"{name}_a", nn.Parameter(torch.empty(rows, rank)))
            self.register_parameter(f"{name}_b", nn.Parameter(torch.empty(rank, columns)))
        else:
            self.register_parameter(name, nn.Parameter(torch.empty(rows, columns)))

    def _matrix(self, name: str) -> Tensor:
        parameters = dict(self.named_parameters())
        return parameters[name] if name in parameters else parameters[f"{name}_a"] @ parameters[f"{name}_b"]

    def factors(self) -> tuple[Tensor, Tensor]:
        # W1 kron (Wa Wb) = (W1 kron Wa) (I kron Wb); a full W2 is I W2.
        w1, parameters = self._matrix("lokr_w1"), dict(self.named_parameters())
        right = parameters["lokr_w2_b" if "lokr_w2_b" in parameters else "lokr_w2"]
        left = parameters.get("lokr_w2_a", torch.eye(len(right)).to(right))
        return torch.kron(torch.eye(w1.shape[1]).to(w1), right), torch.kron(w1, left)

    def forward(self, x: Tensor, y: Tensor, weight: Callable[[], Tensor], bias: Tensor | None) -> Tensor:
        w1, w2 = self._matrix("lokr_w1"), self._matrix("lokr_w2")
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(w1.dtype)
        # (W1 kron W2) vec(X) = vec(W1 X W2^T): the Kronecker product itself is never formed.
        blocks = w1 @ F.linear(x.view(*x.shape[:-1], w1.shape[1], w2.shape[1]), w2)
        return y + (self.scale * blocks.flatten(-2)).to(y.dtype)

    def shape(self) -> tuple[int, int]:
        w1, w2 = self._matrix("lokr_w1"), self._matrix("lokr_w2")
        return w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1]

    def reset(self, generator: torch.Generator | None) -> None:
        for name, tensor in self.named_parameters():
            if name in ("lokr_w1", "lokr_w1_a"):
                nn.init.zeros_(tensor)
            else:
                nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)


def split(size: int, factor: int) -> tuple[int, int]:
    """Two factors of `size`: (`factor`, the rest) where it divides; else the nearest to a square whose smaller one, the
    first, is at most `factor` (-1: no bound). The rule of LyCORIS, so that shapes agree with its files."""
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    bound = math.isqrt(size) if factor == -1 else min(max(factor, 1), math.isqrt(size))
    small = max(d for d in range(1, bound + 1) if size % d == 0)
    return small, size // small


def make_layer(config: AdapterConfig, path: str, out_features: int, in_features: int) -> AdapterLayer:
    """The layer that `config` puts at a module path, its values not yet set."""
    rank, scale = config.rank_of(path), config.scale_of(path)
    if config.method == "loha":
        return LoHa(out_features, in_features, rank, scale)
    if config.method == "lokr":
        return LoKr(out_features, in_features, rank, scale, config.decompose_factor, config.decompose_both)
    return (DoRA if config.dora else LoRA)(out_features, in_features, rank, scale, config.dropout)
