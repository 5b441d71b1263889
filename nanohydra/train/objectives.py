"""Objectives: what a batch should teach. Each returns (sum of the losses, number of targets, metrics).

Sums rather than means, so that the trainer can divide by the targets of the whole batch: then neither the micro-batch
size nor the number of processes changes the step. Metrics are means over the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from nanohydra.data.batch import Batch
from nanohydra.model.transformer import Transformer

Objective = Callable[[Transformer, Batch], tuple[Tensor, Tensor, dict[str, Tensor]]]
Evaluate = Callable[[Transformer], dict[str, float]]


def next_token(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Cross-entropy of the next token, in nats, over the targets that are not -100.

    The same for pretraining and fine-tuning: there the targets are -100 on all but the assistant's tokens, and logits
    are computed only where there is a loss.
    """
    hidden = model.hidden(batch.input_ids, positions=batch.positions, segment_ids=batch.segment_ids).flatten(0, 1)
    targets = batch.targets.flatten()
    kept = (targets != -100).nonzero().squeeze(1)
    if len(kept) < len(targets):
        hidden, targets = hidden[kept], targets[kept]
    loss = cross_entropy_sum(model.logits(hidden), targets)
    return loss, torch.tensor(len(kept), device=loss.device), {}


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over rows of -log softmax(logits)[target] in fp32; logits (N, V) of any float type, targets (N,) int64.

    Equals `F.cross_entropy(logits.float(), targets, reduction="sum")` and its gradient, but takes a few rows at a time
    and finds their gradient on the way, so that the fp32 copies stay in the processor's cache: twice as fast on a CPU
    at vocabularies of thousands, with a sixth of the memory. It can be differentiated once.
    """
    return _CrossEntropySum.apply(logits, targets)  # type: ignore[no-any-return, no-untyped-call]


class _CrossEntropySum(torch.autograd.Function):
    CHUNK = 2**19  # elements: 2 MB in fp32

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        rows = max(1, _CrossEntropySum.CHUNK // logits.shape[-1])
        total = torch.zeros((), device=logits.device)
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for start in range(0, len(logits), rows):
            target = targets[start : start + rows, None]
            log_p = torch.log_softmax(logits[start : start + rows], -1, dtype=torch.float32)
            total -= log_p.gather(1, target).sum()
            if gradient is not None:
                # softmax - one-hot
                p = log_p.exp_().scatter_add_(1, target, log_p.new_full(target.shape, -1.0))
                gradient[start : start + rows] = p
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(upstream), None


def validation(objective: Objective, batches: Iterable[Batch]) -> Evaluate:
    """An `evaluate` for the trainer: the mean of `objective` over `batches` (kept in memory), as val_loss."""
    kept = list(batches)

    def evaluate(model: Transformer) -> dict[str, float]:
        device = next(model.parameters()).device
        loss = targets = 0.0
        with torch.no_grad():
            for batch in kept:
                batch_loss, batch_targets, _ = objective(model, batch.to(device))
                loss += float(batch_loss)
                targets += float(batch_targets)
        return {"val_loss": loss / targets}

    return evaluate
