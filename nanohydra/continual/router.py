"""Which domain a prompt is from, when nobody says so.

perplexity      the adapter (or the base) that finds the prompt likeliest
centroid        the nearest domain by the base's hidden states: linear discriminant analysis, which learns a domain at a
                time and needs no old rows: each domain's mean, and one covariance of all, shrunk towards its diagonal
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanohydra.data.batch import Batch
from nanohydra.model.transformer import Transformer

ROWS = 32


def prompt_loss(model: Transformer, prompts: Sequence[Sequence[int]]) -> Tensor:
    """(n,) mean nats a token of each prompt, its first token apart."""
    losses = []
    device = next(model.parameters()).device
    for start in range(0, len(prompts), ROWS):
        part = [list(p) for p in prompts[start : start + ROWS]]
        width = max(2, *map(len, part))
        ids = torch.tensor([p + [0] * (width - len(p)) for p in part], device=device)
        real = torch.tensor([[1.0] * (len(p) - 1) + [0.0] * (width - len(p)) for p in part], device=device)
        logits = model(ids[:, :-1]).float()
        nats = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") * real
        losses.append(nats.sum(1) / real.sum(1).clamp(min=1))
    return torch.cat(losses)


@torch.no_grad()
def by_perplexity(
    names: Sequence[str | None],
    prompts: Sequence[Sequence[int]],
    using: Callable[[str | None], AbstractContextManager[Transformer]],
) -> list[str | None]:
    """For each prompt the name under which the model loses least on it."""
    losses = []
    for name in names:
        with using(name) as model:
            losses.append(prompt_loss(model, prompts))
    return [names[i] for i in torch.stack(losses).argmin(0).tolist()]


class CentroidRouter:
    """Gaussian classes with one covariance over mean hidden states (D,) of the base."""

    def __init__(self, shrinkage: float = 0.1) -> None:
        self.shrinkage = shrinkage
        self.means: dict[str, Tensor] = {}
        self.scatter: Tensor | None = None
        """Sum over all rows of (x - their domain's mean) times itself (D, D)."""
        self.count = 0

    @torch.no_grad()
    def learn(self, name: str, model: Transformer, batch: Batch) -> None:
        """Takes in a domain from rows of its text."""
        x = features(model, batch.input_ids.tolist())
        mean = x.mean(0)
        self.means[name] = mean
        scatter = (x - mean).T @ (x - mean)
        self.scatter = scatter if self.scatter is None else self.scatter + scatter
        self.count += len(x)

    @torch.no_grad()
    def route(self, model: Transformer, prompts: Sequence[Sequence[int]]) -> list[str]:
        """For each prompt the domain of the greatest posterior, all being equally likely before."""
        assert self.scatter is not None
        covariance = self.scatter / max(1, self.count - len(self.means))
        diagonal = torch.diag(covariance.diagonal() + 1e-6)
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * diagonal
        names = list(self.means)
        means = torch.stack([self.means[name] for name in names])  # (K, D)
        weights = torch.linalg.solve(shrunk, means.T)  # (D, K)
        scores = features(model, prompts) @ weights - 0.5 * (means.T * weights).sum(0)
        return [names[i] for i in scores.argmax(1).tolist()]

    @property
    def nbytes(self) -> int:
        """Bytes of means and scatter."""
        return sum(
            t.numel() * t.element_size()
            for t in (*self.means.values(), *([] if self.scatter is None else [self.scatter]))
        )

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"means": self.means, "scatter": self.scatter, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.means, self.scatter, self.count = dict(state["means"]), state["scatter"], int(state["count"])


@torch.no_grad()
def features(model: Transformer, prompts: Sequence[Sequence[int]]) -> Tensor:
    """(n, D) mean last hidden state over each prompt's tokens."""
    found = []
    device = next(model.parameters()).device
    for start in range(0, len(prompts), ROWS):
        part = [list(p) for p in prompts[start : start + ROWS]]
        width = max(map(len, part))
        ids = torch.tensor([p + [0] * (width - len(p)) for p in part], device=device)
        real = (torch.arange(width) < torch.tensor([[len(p)] for p in part])).to(device)[..., None]
        hidden = model.hidden(ids).float()
        found.append((hidden * real).sum(1) / real.sum(1))
    return torch.cat(found).cpu()
