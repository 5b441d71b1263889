"""The position-wise MLPs, each (..., D) -> (..., D). To add one, write a class and name it in MLPS and in MLPKind."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.model.config import ModelConfig


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class PlainMLP(nn.Module):
    """down(activation(up x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def activation(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.up_proj(x)))  # type: ignore[no-any-return]


class GELU(PlainMLP):
    """GELU in its tanh form, as in GPT-2 (Hendrycks and Gimpel, arXiv 1606.08415)."""

    def activation(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class ReLU2(PlainMLP):
    """Squared ReLU (Primer, arXiv 2109.08668)."""

    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


MLPS: dict[str, type[nn.Module]] = {"swiglu": SwiGLU, "gelu": GELU, "relu2": ReLU2}


def make_mlp(config: ModelConfig) -> nn.Module:
    """The MLP that the config names."""
    return MLPS[config.mlp](config)
