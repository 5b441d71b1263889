"""Learning new things while staying near the base: the objective behind re-distillation.

    loss = CE(targets) + weight x KL(base || adapted)

The KL term is LwF's (Li and Hoiem, arXiv 1606.09282) in its forward form, on the model's whole next-token distribution:
it keeps all that the base would say, not only its first choice. The base is the same model with its adapters off, so
nothing is stored twice. With replayed rows in the batch this trains one adapter on the union of many lessons.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nanohydra.adapt.attach import Adapters
from nanohydra.data.batch import IGNORE, Batch
from nanohydra.model.transformer import Transformer
from nanohydra.train.objectives import Objective


def near_base(
    adapters: Adapters, weight: float, kl_rows: Callable[[Batch], Tensor] | None = None, temperature: float = 1.0
) -> Objective:
    """Cross-entropy plus `weight` times KL(base || adapted), both summed over the targets that are not -100.

    `kl_rows` says for which rows of a batch the KL term counts, as a (B,) bool tensor (None: all); rows that teach what
    the base does not know are better left out. Both distributions are softened by `temperature` T and the term scaled
    by T^2, which keeps its gradients' size (Hinton et al., arXiv 1503.02531). Metrics, means over the targets: `ce`,
    `kl`.
    """

    def objective(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        targets = batch.targets.flatten()
        kept = (targets != IGNORE).nonzero().squeeze(1)
        logits = _logits(model, batch, kept)
        ce = F.cross_entropy(logits, targets[kept], reduction="sum")
        counted = torch.arange(len(kept), device=kept.device)
        if kl_rows is not None:
            wanted = kl_rows(batch).to(kept.device)
            counted = wanted[kept // batch.targets.shape[1]].nonzero().squeeze(1)
        kl = logits.new_zeros(())
        if weight and len(counted):
            base = _base_logits(adapters, model, batch, kept[counted])
            student = F.log_softmax(logits[counted] / temperature, -1)
            teacher = F.log_softmax(base / temperature, -1)
            kl = F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2
        count = torch.tensor(len(kept), device=kept.device)
        per_target = count.clamp(min=1)
        return ce + weight * kl, count, {"ce": ce.detach() / per_target, "kl": kl.detach() / per_target}

    return objective


def _logits(model: Transformer, batch: Batch, places: Tensor) -> Tensor:
    """fp32 logits (N, V) at places (N,) of the flattened batch."""
    hidden = model.hidden(batch.input_ids, positions=batch.positions, segment_ids=batch.segment_ids)
    return model.logits(hidden.flatten(0, 1)[places]).float()


@torch.no_grad()
def _base_logits(adapters: Adapters, model: Transformer, batch: Batch, places: Tensor) -> Tensor:
    training = model.training
    model.eval()  # the base is the target: no dropout
    try:
        with adapters.using(None):
            return _logits(model, batch, places)
    finally:
        model.train(training)
