"""What counts as a linear layer: whatever multiplies by a weight (out, in), however that is stored."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from nanohydra.errors import UserError


class Linear(Protocol):
    """nn.Linear, or a 4-bit, packed or int8 layer in its place: x (..., in) -> (..., out)."""

    in_features: int
    out_features: int
    bias: Any  # Tensor | None

    def register_forward_hook(self, hook: Any) -> Any:
        """As of nn.Module."""


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """Every linear layer by its path."""
    kinds = ("in_features", "out_features", "bias")
    return {path: cast(Linear, m) for path, m in model.named_modules() if all(hasattr(m, kind) for kind in kinds)}


def dense_weight(module: Linear) -> Tensor:
    """A linear layer's weight (out, in) as a dense tensor. Raises UserError where it cannot be had back."""
    weight: Any = getattr(module, "weight", None)
    if weight is None:
        packed = getattr(module, "packed", None)  # in oneDNN's layout
        if packed is None or packed.layout != torch._mkldnn:  # type: ignore[attr-defined]
            raise UserError(
                "The base's int8 weights cannot be read back, which this adapter needs: load it without int8."
            )
        weight = packed.to_dense()
    elif hasattr(weight, "quant_state"):  # a bitsandbytes layer
        bitsandbytes: Any = importlib.import_module("bitsandbytes")
        weight = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    return cast(Tensor, weight.detach())
