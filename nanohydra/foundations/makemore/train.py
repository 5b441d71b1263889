"""The loop that fits every rung: draw a batch, predict, measure, step downhill. Nothing is hidden in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.foundations.makemore.data import Examples


@dataclass(frozen=True)
class FitConfig:
    """How to train."""

    steps: int = 5_000
    """Optimizer steps."""
    batch_size: int = 256
    """Examples per step: letters for the window models, names for the recurrent ones."""
    lr: float = 0.01
    """Learning rate of Adam at the start; it falls along a half cosine to 1% of it."""
    seed: int = 0
    """Seed of the order of the examples."""


@dataclass
class Loop:
    """What hooks may look at: the parts of a training in progress, named as in the big trainer."""

    model: nn.Module
    parameters: dict[str, nn.Parameter]
    step: int = 0
    loss: float = math.nan
    run: None = None

    def say(self, text: str) -> None:
        """Speaks to the person."""
        print(text)


def negative_log_likelihood(model: nn.Module, examples: Examples) -> Tensor:
    """The mean over targets of -ln p(target), in nats."""
    logits: Tensor = model(examples.inputs)
    return F.cross_entropy(logits.flatten(0, -2), examples.targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, examples: Examples, rows: int = 8192) -> float:
    """The NLL over all examples in evaluation mode, `rows` at a time, each part weighed by its number of targets."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(examples), rows):
        part = examples.at(torch.arange(start, min(start + rows, len(examples))))
        targets = int((part.targets >= 0).sum())
        total += negative_log_likelihood(model, part).item() * targets
        count += targets
    model.train(was_training)
    return total / count


def fit(
    model: nn.Module, examples: Examples, config: FitConfig | None = None, hooks: Sequence[Any] = ()
) -> list[float]:
    """Trains `model` in place and returns the loss of each step.

    hooks: objects with before_step, after_backward and after_step, each called with the `Loop`, such as diagnostics.
    """
    config = config or FitConfig()
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps, eta_min=config.lr / 100)
    loop = Loop(model, dict(model.named_parameters()))
    losses = []
    model.train()
    for step in range(config.steps):
        for hook in hooks:
            hook.before_step(loop)
        batch = examples.at(torch.randint(len(examples), (config.batch_size,), generator=generator))
        loss = negative_log_likelihood(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for hook in hooks:
            hook.after_backward(loop)
        optimizer.step()
        schedule.step()
        loop.step, loop.loss = step + 1, loss.item()
        for hook in hooks:
            hook.after_step(loop)
        losses.append(loop.loss)
    return losses
