"""One adapter out of several: sums, SVD, TIES, DARE and magnitude pruning, with PEFT's names and results.

Each is a way of pruning every adapter, then a way of adding them up, in one of two spaces: the factors A and B apart
(rough: the product of sums is not the sum of products), or the updates B A themselves, cut back to a rank by SVD.
On adapters that hold facts all of them lose most: see `distill` for what keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from nanohydra.adapt.adapter import Adapter, Metadata
from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.methods import DoRA, LoRA
from nanohydra.errors import UserError, did_you_mean

Pruning = Literal["none", "magnitude", "random"]

METHODS: dict[str, tuple[Pruning, bool, bool]] = {
    # method: (how each is pruned, whether the sign of every value is elected, whether in the space of updates)
    "linear": ("none", False, False),
    "svd": ("none", False, True),
    "ties": ("magnitude", True, False),
    "ties_svd": ("magnitude", True, True),
    "dare_linear": ("random", False, False),
    "dare_linear_svd": ("random", False, True),
    "dare_ties": ("random", True, False),
    "dare_ties_svd": ("random", True, True),
    "magnitude_prune": ("magnitude", False, False),
    "magnitude_prune_svd": ("magnitude", False, True),
}
"""TIES: Yadav et al., arXiv 2306.01708. DARE: Yu et al., arXiv 2311.03099. `cat`, which is exact, is apart."""


@torch.no_grad()
def combine(
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    method: str = "linear",
    density: float = 0.5,
    rank: int | None = None,
    generator: torch.Generator | None = None,
) -> Adapter:
    """A new LoRA adapter that stands for sum of weight x adapter.

    `cat` joins the ranks and is exact. `density` is the share of values that pruning keeps; `rank` the result's, for
    `svd` and the `_svd` methods (default: the largest given one); `generator` draws what DARE drops. Raises UserError
    for an unknown method and for adapters that have no such sum.
    """
    if method != "cat" and method not in METHODS:
        raise UserError(f'Merge method "{method}" is unknown.{did_you_mean(method, [*METHODS, "cat"])}')
    if not adapters or len(adapters) != len(weights):
        raise UserError(f"A merge needs adapters and one weight for each: got {len(adapters)} and {len(weights)}.")
    if not 0.0 < density <= 1.0:
        raise UserError(f"density is {density}: it must be above 0 and at most 1.")
    if len({(a.metadata.base, a.metadata.over) for a in adapters}) > 1:
        raise UserError("The adapters have different bases, or other adapters below them: they cannot be merged.")
    if any(isinstance(layer, DoRA) for a in adapters for layer in a.layers.values()):
        raise UserError("DoRA adapters rescale the base's weights, which has no sum: merge LoRA adapters.")
    layers: dict[str, LoRA] = {}
    for path in dict.fromkeys(path for adapter in adapters for path in adapter.paths):
        given = [(a.layers[path], weight) for a, weight in zip(adapters, weights) if path in a.paths]
        if method == "cat":
            scaled = [(layer.factors(), weight * layer.scale) for layer, weight in given]
            a = torch.cat([weight * a for (a, _), weight in scaled])
            b = torch.cat([b for (_, b), _ in scaled], dim=1)
        elif METHODS[method][2]:
            deltas = [layer.delta() for layer, _ in given]
            merged = merge_tensors(deltas, [weight for _, weight in given], method, density, generator)
            a, b = _low_rank(merged, rank or max(_rank(adapter) for adapter in adapters))
        else:
            factors = [layer.factors() for layer, _ in given]
            if any(not isinstance(layer, LoRA) for layer, _ in given) or len({len(a) for a, _ in factors}) > 1:
                raise UserError(f"{method} needs LoRA adapters of one rank: use {method}_svd, svd or cat.")
            # The weight is split evenly between both factors, its sign given to one.
            roots = [math.sqrt(abs(weight * layer.scale)) for layer, weight in given]
            signed = [math.copysign(root, weight * layer.scale) for root, (layer, weight) in zip(roots, given)]
            a = merge_tensors([a for a, _ in factors], signed, method, density, generator)
            b = merge_tensors([b for _, b in factors], roots, method, density, generator)
        layer = LoRA(len(b), a.shape[1], len(a), scale=1.0)
        layer.lora_A.data, layer.lora_B.data = a, b
        layers[path] = layer
    ranks = {path: len(layer.lora_A) for path, layer in layers.items()}
    largest = max(ranks.values())
    # Every path by name, since adapters with different targets may have been joined; alpha = rank makes the scale 1.
    config = AdapterConfig(rank=largest, alpha=largest, target_modules=tuple(layers))
    odd = {path.replace(".", r"\."): r for path, r in ranks.items() if r != largest}
    config = replace(config, rank_pattern=odd, alpha_pattern=dict(odd))
    lessons = tuple(dict.fromkeys(lesson for adapter in adapters for lesson in adapter.metadata.lessons))
    first = adapters[0].metadata
    return Adapter(config, layers, Metadata(first.base, first.over, lessons)).requires_grad_(False)


def merge_tensors(
    tensors: Sequence[Tensor],
    weights: Sequence[float],
    method: str,
    density: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The weighted merge of tensors of one shape by a method of `METHODS` (with or without _svd)."""
    pruning, elect, _ = METHODS[method]
    stacked = torch.stack([prune(t, density, pruning, generator) for t in tensors])
    weighted = stacked * torch.tensor(weights, dtype=stacked.dtype, device=stacked.device).view(
        -1, *[1] * tensors[0].ndim
    )
    if not elect:
        return weighted.sum(0)
    # TIES: of every value, only those with the sign of the larger total count, and it is their mean.
    agree = stacked.sign() == torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    return (weighted * agree).sum(0) / agree.sum(0).clamp(min=1)


def prune(tensor: Tensor, density: float, how: Pruning, generator: torch.Generator | None = None) -> Tensor:
    """Keeps the share `density` of the values: the largest (magnitude), or random ones times 1/density (DARE)."""
    if how == "none" or density >= 1.0:
        return tensor
    if how == "random":
        return tensor * torch.bernoulli(torch.full_like(tensor, density), generator=generator) / density
    kept = torch.zeros_like(tensor).flatten()
    kept[tensor.abs().flatten().topk(int(density * tensor.numel())).indices] = 1.0
    return tensor * kept.view_as(tensor)


def _low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest A (r, in), B (out, r) to a matrix (out, in) in the sense of squares, by SVD."""
    u, s, v = torch.linalg.svd(matrix.float(), full_matrices=False)
    return v[:rank].contiguous(), u[:, :rank] * s[:rank]


def _rank(adapter: Adapter) -> int:
    return max(adapter.config.rank, *adapter.config.rank_pattern.values(), 1)
