"""A base in 4 bits, to train adapters over it in a quarter of the memory (QLoRA, Dettmers et al., arXiv 2305.14314)."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from nanohydra.adapt.linear import linear_layers
from nanohydra.adapt.nf4 import NF4Linear
from nanohydra.errors import UserError


def quantize_base(
    model: nn.Module,
    backend: Literal["auto", "reference", "bitsandbytes"] = "auto",
    skip: Iterable[str] = ("lm_head",),
) -> None:
    """Replaces every linear layer of a model, but those at the paths `skip`, by a frozen NF4 one, in place.

    auto: bitsandbytes (whose kernels expand and multiply in one go) where the weights are on a GPU, else our reference,
    which gives the same numbers. Do it before adapters are attached. The weights are gone after this: such a base can
    carry adapters but neither be saved nor have adapters merged into it.
    """
    if "adapters" in dict(model.named_children()):
        raise ValueError("Quantise the base before attaching adapters.")
    left_out = set(skip)
    for path, found in linear_layers(model).items():
        linear = found.module
        if path in left_out or not isinstance(linear, nn.Linear):
            continue
        linear.requires_grad_(False)
        on_gpu = linear.weight.device.type == "cuda"
        if backend == "bitsandbytes" and not on_gpu:
            raise UserError(
                "bitsandbytes is used on a GPU only: choose the backend reference, or move the model there."
            )
        use_kernels = on_gpu and backend != "reference"
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, _bitsandbytes(linear) if use_kernels else NF4Linear(linear))


def _bitsandbytes(linear: nn.Linear) -> nn.Module:
    try:
        bitsandbytes: Any = importlib.import_module("bitsandbytes")
    except ImportError as e:
        raise UserError('4-bit weights on a GPU need bitsandbytes: pip install "nanohydra[qlora]".') from e
    layer: nn.Module = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=linear.weight.dtype if linear.weight.dtype != torch.float32 else torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    # It quantises when it reaches the device.
    layer.weight = bitsandbytes.nn.Params4bit(
        linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, blocksize=64
    )
    layer.bias = linear.bias
    return layer.to(linear.weight.device).requires_grad_(False)
