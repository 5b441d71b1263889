"""Every domain learnt for itself, as if there had been no other: the reference for forward transfer.

    theta_k = argmin_theta L_k(theta), starting from the base, or from new weights

A domain that others learn better after earlier ones than this does has gained from them. Its row of the table tells
nothing of forgetting: what it knew before is thrown away by definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.errors import UserError
from nanohydra.model.transformer import Transformer


@dataclass(frozen=True)
class AloneSettings(Settings):
    """Where each domain starts."""

    start: Literal["base", "new"] = "base"
    """base: from the base's weights, without the domains in between. new: from new weights, without the base too."""


class Alone(Strategy):
    """Puts the start's weights back before each stage."""

    settings_class: ClassVar[type[Settings]] = AloneSettings
    settings: AloneSettings

    def __init__(self, setup: Setup, settings: AloneSettings) -> None:
        super().__init__(setup, settings)
        if settings.start == "new":
            if settings.adapter:
                raise UserError("alone: an adapter over new weights teaches nothing: leave adapter or start out.")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(setup.seed)
                fresh = Transformer(setup.model.config)
            self.start = {name: p.detach() for name, p in fresh.named_parameters()}
        else:
            self.start = self.learner.state_dict()

    def start_stage(self, stage: Stage) -> None:
        self.learner.load_state_dict(self.start)
