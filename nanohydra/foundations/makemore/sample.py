"""Write new names: draw a letter from the model's probabilities, append it, repeat until it draws the boundary.

Temperature t divides the logits before the softmax: p ~ exp(logit / t). Below 1 the likely letters become more likely
(safe, repetitive), above 1 all letters come closer together (inventive, then noise), 1 is what the model believes.
Top-k keeps only the k likeliest letters, so that the long tail of unlikely ones can never be drawn (Fan et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nanohydra.errors import UserError
from nanohydra.foundations.makemore.data import Vocabulary


def next_letter_probabilities(logits: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """(N, V) logits to (N, V) probabilities, sharpened or flattened by `temperature`, cut to the `top_k` likeliest."""
    if not temperature > 0:
        raise UserError(f"Temperature {temperature} is not above 0. Try 0.5 (safe) to 2 (wild).")
    if top_k is not None:
        if top_k < 1:
            raise UserError(f"top_k {top_k} keeps no letter. Give 1 or more.")
        kept = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
    return torch.softmax(logits / temperature, dim=-1)


@torch.no_grad()
def sample(
    model: nn.Module,
    vocabulary: Vocabulary,
    count: int = 10,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    max_length: int = 30,
) -> list[str]:
    """Draws `count` names. The same seed gives the same names; `max_length` bounds a name that will not end.

    model: any of the ladder's; its `context` is the number of letters it looks back over, or None for all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    context: int | None = model.context  # type: ignore[assignment]
    ids = torch.zeros(count, context or 1, dtype=torch.int64)  # boundaries: the time before the name
    begin = ids.shape[1]
    ended = torch.zeros(count, dtype=torch.bool)
    was_training = model.training
    model.eval()
    while ids.shape[1] < begin + max_length and not ended.all():
        logits = model(ids if context is None else ids[:, -context:])
        if context is None:
            logits = logits[:, -1]  # recurrent models answer at each position; only the last is new
        probabilities = next_letter_probabilities(logits, temperature, top_k)
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        ended |= drawn[:, 0] == 0
        ids = torch.cat([ids, drawn], dim=1)
    model.train(was_training)
    return [vocabulary.decode(row).split(".")[0] for row in ids[:, begin:].tolist()]
