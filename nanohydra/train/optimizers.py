"""Which parameter is trained by which optimizer, and their state as named tensors (no pickle)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nanohydra.errors import UserError
from nanohydra.train.config import TrainConfig


def make_optimizers(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> dict[str, torch.optim.Optimizer]:
    """The optimizers by name. Each group keeps its peak rate as `peak_lr`; the trainer sets `lr` at every step.

    AdamW (Loshchilov & Hutter 2019) decays matrices only. Muon (Jordan et al. 2024) takes the matrices of the layers:
    an embedding or a head is no map between hidden states, so orthogonalised steps do not suit it.
    """
    matrices = {n: p for n, p in parameters.items() if p.ndim >= 2}
    hidden = {n: p for n, p in matrices.items() if p.ndim == 2 and not _is_table(n)}
    muon = hidden if config.optimizer == "muon" else {}
    groups = [
        {"params": [p for n, p in matrices.items() if n not in muon], "weight_decay": config.weight_decay},
        {"params": [p for n, p in parameters.items() if n not in matrices], "weight_decay": 0.0},
    ]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if groups := [{**g, "peak_lr": config.lr} for g in groups if g["params"]]:
        optimizers["adamw"] = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    if muon:
        optimizers["muon"] = torch.optim.Muon(
            [{"params": list(muon.values()), "peak_lr": config.matrix_lr}],
            lr=config.matrix_lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn=config.muon_adjust,
        )
    if not optimizers:
        raise UserError("Nothing to train: no parameter of the model requires a gradient.")
    return optimizers


def _is_table(name: str) -> bool:
    """Whether a matrix is a table of vectors (token or position embeddings) or the head over the vocabulary."""
    return any("embed" in part or part in ("lm_head", "wte", "wpe") for part in name.split("."))


def set_lr(optimizers: Mapping[str, torch.optim.Optimizer], share: float) -> None:
    """Sets every group's rate to `share` of its peak."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share


def optimizer_tensors(
    optimizers: Mapping[str, torch.optim.Optimizer], parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """All optimizer state as "<slot>/<parameter>" -> tensor (slots: exp_avg, exp_avg_sq, step, momentum_buffer)."""
    return {
        f"{slot}/{name}": value
        for optimizer in optimizers.values()
        for name, p in parameters.items()
        if p in optimizer.state
        for slot, value in optimizer.state[p].items()
    }


def load_optimizer_tensors(
    tensors: Mapping[str, Tensor],
    optimizers: Mapping[str, torch.optim.Optimizer],
    parameters: Mapping[str, nn.Parameter],
) -> None:
    """The inverse of `optimizer_tensors`."""
    owner = {p: o for o in optimizers.values() for g in o.param_groups for p in g["params"]}
    for key, value in tensors.items():
        slot, name = key.split("/", 1)
        if name not in parameters:
            raise UserError(f"The checkpoint has optimizer state for {name}, which this model does not train.")
        p = parameters[name]
        owner[p].state[p][slot] = value.to(p.device, copy=True)
