"""Objectives: what a batch should teach. Each returns (sum of the losses, number of targets, metrics).

Sums rather than means, so that the trainer can divide by the targets of the whole batch: then neither the micro-batch size
nor the number of processes changes the step. Metrics are means over the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from nanohydra.data.batch import Batch
from nanohydra.model.transformer import Transformer

Objective = Callable[[Transformer, Batch], tuple[Tensor, Tensor, dict[str, Tensor]]]
Evaluate = Callable[[Transformer], dict[str, float]]


def next_token(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Cross-entropy of the next token, in nats, over the targets that are not -100.

    The same for pretraining and fine-tuning: there the targets are -100 on all but the assistant's tokens, and logits are
    computed only where there is a loss.
    """
    hidden = model.hidden(batch.input_ids, positions=batch.positions, segment_ids=batch.segment_ids).flatten(0, 1)
    targets = batch.targets.flatten()
    kept = (targets != -100).nonzero().squeeze(1)
    if len(kept) < len(targets):
        hidden, targets = hidden[kept], targets[kept]
    loss = F.cross_entropy(model.logits(hidden).float(), targets, reduction="sum")
    return loss, torch.tensor(len(kept), device=loss.device), {}


def validation(objective: Objective, batches: Iterable[Batch]) -> Evaluate:
    """An `evaluate` for the trainer: the mean of `objective` over `batches` (kept in memory), as val_loss."""
    kept = list(batches)

    def evaluate(model: Transformer) -> dict[str, float]:
        device = next(model.parameters()).device
        loss = targets = 0.0
        for batch in kept:
            batch_loss, batch_targets, _ = objective(model, batch.to(device))
            loss += float(batch_loss)
            targets += float(batch_targets)
        return {"val_loss": loss / targets}

    return evaluate
