"""Elastic weight consolidation: weights that mattered to earlier domains are held by springs.

    L_k(theta) + sum_{j < k} lambda / 2 sum_i F_{j,i} (theta_i - theta*_{j,i})^2

Kirkpatrick et al. 2017 (arXiv 1612.00796). One Fisher diagonal and one anchor for each domain: see `online_ewc` for one
of all. The springs' gradient is added after the backward pass, in fp32, before the gradient is clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from nanohydra.continual.fisher import diagonal_fisher
from nanohydra.continual.learner import nbytes
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.train.hooks import Hook
from nanohydra.train.trainer import Trainer


@dataclass(frozen=True)
class EWCSettings(Settings):
    """How stiff the springs are."""

    weight: float = 1000.0
    """lambda: how many tokens of an earlier domain one token of the new one weighs up against."""

    rows: int = 256
    """Rows of a domain that its Fisher is estimated from."""


@dataclass
class Springs:
    """One anchor with its stiffness, by parameter name."""

    fisher: dict[str, Tensor]
    anchor: dict[str, Tensor]


class Penalty(Hook):
    """Adds the gradient lambda F (theta - theta*) of every spring."""

    def __init__(self, springs: Sequence[Springs], weight: float) -> None:
        self.springs, self.weight = springs, weight

    def after_backward(self, trainer: Trainer) -> None:
        for spring in self.springs:
            for name, p in trainer.parameters.items():
                if p.grad is not None:
                    p.grad.addcmul_(spring.fisher[name], p.detach() - spring.anchor[name], value=self.weight)


class EWC(Strategy):
    """Keeps the springs of all domains."""

    settings_class: ClassVar[type[Settings]] = EWCSettings
    settings: EWCSettings

    def __init__(self, setup: Setup, settings: EWCSettings) -> None:
        super().__init__(setup, settings)
        self.springs: list[Springs] = []

    def hooks(self, stage: Stage) -> Sequence[Hook]:
        return (Penalty(self.springs, self.settings.weight),)

    def end_stage(self, stage: Stage) -> None:
        if stage.domain.source is not None:
            anchor = {name: p.detach().clone() for name, p in self.learner.trained.items()}
            self.keep(Springs(self._fisher(stage), anchor))

    def keep(self, spring: Springs) -> None:
        """Takes in a domain's springs."""
        self.springs.append(spring)

    def _fisher(self, stage: Stage) -> dict[str, Tensor]:
        assert stage.domain.source is not None
        rows = np.arange(min(self.settings.rows, stage.domain.rows), dtype=np.int64)
        batch = stage.domain.source.take(rows)
        return diagonal_fisher(self.model, self.learner.trained, self.objective(stage), [batch])

    def stored(self) -> dict[str, int]:
        return {**super().stored(), "fisher": sum(nbytes([s.fisher, s.anchor]) for s in self.springs)}

    def state_dict(self) -> dict[str, Any]:
        springs = [{"fisher": s.fisher, "anchor": s.anchor} for s in self.springs]
        return {**super().state_dict(), "springs": springs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        device = next(self.model.parameters()).device
        self.springs = [
            Springs(*({name: t.to(device) for name, t in spring[part].items()} for part in ("fisher", "anchor")))
            for spring in state["springs"]
        ]
