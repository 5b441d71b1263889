"""Vectors of texts from a language model: the mean of its last hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanohydra.model.transformer import Transformer


def embed(model: Transformer, prompts: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """Unit vectors (N, D) float32 of lists of ids; a pass works on about `tokens` ids, padding included.

    The padding is at the end, where causal attention keeps the others from seeing it.
    """
    device = model.model.embed_tokens.weight.device
    vectors = torch.empty(len(prompts), model.config.hidden_size, device=device)
    for rows in _batches([len(prompt) for prompt in prompts], tokens):
        counts = torch.tensor([len(prompts[i]) for i in rows], device=device)
        width = len(prompts[rows[-1]])
        ids = torch.tensor([[*prompts[i], *[0] * (width - len(prompts[i]))] for i in rows], device=device)
        hidden = model.hidden(ids).float()
        real = torch.arange(width, device=device) < counts[:, None]
        vectors[rows] = F.normalize((hidden * real[..., None]).sum(1) / counts[:, None], dim=-1)
    return vectors


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Rows of like length together, the shortest first."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[row] > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
