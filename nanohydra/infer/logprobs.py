"""Log-probabilities of drawn tokens, as the model itself gives them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanohydra.infer.streaming import Logprob


def logprobs_of(logits: Tensor, tokens: Sequence[int], most: Sequence[int | None]) -> list[Logprob | None]:
    """For each row of the model's own logits (R, V): its drawn token's log-probability and that of the most[i] most likely
    tokens; None where most[i] is None."""
    rows = [i for i, n in enumerate(most) if n is not None]
    result: list[Logprob | None] = [None] * len(tokens)
    scores = logits[rows].float().log_softmax(-1)
    chosen = scores.gather(-1, torch.tensor([tokens[i] for i in rows], device=logits.device)[:, None])[:, 0].tolist()
    best = scores.topk(min(max(most[i] or 0 for i in rows), scores.shape[-1]))
    for i, logprob, ids, values in zip(rows, chosen, best.indices.tolist(), best.values.tolist(), strict=True):
        result[i] = Logprob(tokens[i], logprob, tuple(zip(ids, values))[: most[i]])
    return result
