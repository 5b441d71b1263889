"""Staying near a teacher: the objective of LwF, of KL + replay, and of what else distils an earlier model.

    L = CE(targets) + weight x T^2 KL(softmax(z_teacher / T) || softmax(z / T))

Both are summed over targets. Hinton et al. 2015 (arXiv 1503.02531); Li and Hoiem 2016 (arXiv 1606.09282).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nanohydra.continual.learner import Speaker
from nanohydra.continual.memory import RehearsedBatch
from nanohydra.data.batch import IGNORE, Batch
from nanohydra.model.transformer import Transformer
from nanohydra.train.objectives import Objective, cross_entropy_sum


def near_teacher(
    teacher: Speaker, weight: float, *, only_replayed: bool = False, temperature: float = 1.0
) -> Objective:
    """Cross-entropy plus the KL term.

    only_replayed: the term counts for rows of earlier domains alone: about the new ones the teacher knows nothing.
    Metrics, means over the targets: `ce`, `kl`.
    """

    def objective(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        flat = batch.targets.flatten()
        kept = (flat != IGNORE).nonzero().squeeze(1)
        logits = _logits(model, batch, kept)
        ce = cross_entropy_sum(logits, flat[kept])
        counted = torch.ones_like(kept, dtype=torch.bool)
        if only_replayed:
            replayed = batch.replayed if isinstance(batch, RehearsedBatch) else None
            counted = torch.zeros_like(counted) if replayed is None else replayed[kept // batch.targets.shape[1]]
        kl = torch.zeros((), device=ce.device)
        if weight and counted.any():
            with torch.no_grad(), teacher() as wise:
                target = F.log_softmax(_logits(wise, batch, kept[counted]).float() / temperature, -1)
            ours = F.log_softmax(logits[counted].float() / temperature, -1)
            kl = F.kl_div(ours, target, reduction="sum", log_target=True) * temperature**2
        count = torch.tensor(len(kept), device=ce.device)
        per_target = count.clamp(min=1)
        return ce + weight * kl, count, {"ce": ce.detach() / per_target, "kl": kl.detach() / per_target}

    return objective


def _logits(model: Transformer, batch: Batch, places: Tensor) -> Tensor:
    """Logits (N, V) at places (N,) of the flattened batch."""
    hidden = model.hidden(batch.input_ids, positions=batch.positions, segment_ids=batch.segment_ids)
    return model.logits(hidden.flatten(0, 1)[places])
