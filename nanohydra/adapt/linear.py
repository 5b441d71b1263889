"""What counts as a linear layer: whatever multiplies by a weight (out, in), however that is stored."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from nanohydra.errors import UserError

JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Layers that a model packed for inference has put into one, whose outputs are theirs one after the other."""


@dataclass(frozen=True)
class Linear:
    """A linear layer x (..., in) -> (..., out): a module, or a part of one that joins several layers."""

    module: nn.Module
    site: str
    """The module's path."""
    in_features: int
    out_features: int
    outputs: slice | None = None
    """Which of the module's outputs are this layer's; None: all."""

    @property
    def bias(self) -> Tensor | None:
        """(out,)"""
        bias: Any = self.module.bias
        return cast("Tensor | None", bias if bias is None or self.outputs is None else bias[self.outputs])

    @property
    def weight(self) -> Tensor:
        """(out, in) as a dense tensor, however it is stored. Raises UserError where it cannot be had back."""
        weight: Any = getattr(self.module, "weight", None)
        if weight is None:
            packed = getattr(self.module, "packed", None)  # in oneDNN's layout
            if packed is None or not packed.dtype.is_floating_point:
                raise UserError(
                    "The base's int8 weights cannot be read, which this adapter needs: load it without int8."
                )
            weight = packed.to_dense()
        elif hasattr(weight, "quant_state"):  # a bitsandbytes layer
            bitsandbytes: Any = importlib.import_module("bitsandbytes")
            weight = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        weight = weight.detach()
        return cast(Tensor, weight if self.outputs is None else weight[self.outputs])


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """Every linear layer by its path; those joined in one module by the paths that they had before."""
    layers: dict[str, Linear] = {}
    for path, module in model.named_modules():
        if not all(hasattr(module, name) for name in ("in_features", "out_features", "bias")):
            continue
        width, outputs = cast(Any, module).in_features, cast(Any, module).out_features
        parent, _, name = path.rpartition(".")
        if name not in JOINED:
            layers[path] = Linear(module, path, width, outputs)
            continue
        start = 0
        for part, size in zip(JOINED[name], _sizes(model.get_submodule(parent), len(JOINED[name]), outputs)):
            layers[f"{parent}.{part}"] = Linear(module, path, width, size, slice(start, start + size))
            start += size
    return layers


def _sizes(parent: Any, parts: int, outputs: int) -> list[int]:
    """How many outputs each joined layer has: attention knows its heads, other parts are equal."""
    heads = getattr(parent, "heads", None)
    return [outputs // parts] * parts if heads is None else [count * parent.head_dim for count in heads]
