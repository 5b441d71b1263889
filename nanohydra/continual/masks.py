"""Weights that a stage must not move: put back after every step, to the bit, whatever the optimizer did to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nanohydra.train.hooks import Hook
from nanohydra.train.trainer import Trainer


class Held(Hook):
    """Keeps the masked elements of parameters.

    A gradient of zero would not do: weight decay and momentum move weights without one, and an optimizer that mixes a
    matrix's gradient (Muon) moves all of it. The gradient is set to zero as well, so that clipping does not count it.
    """

    def __init__(self, held: Mapping[str, Tensor]) -> None:
        """`held`: for parameter names True (of the parameter's shape, or one that broadcasts) where it must not move."""
        self.held = dict(held)
        self._values: dict[str, Tensor] = {}

    def hold(self, trainer: Trainer, held: Mapping[str, Tensor]) -> None:
        """Takes other masks from now on, with the values as they are now."""
        self.held = dict(held)
        self.on_start(trainer)

    def on_start(self, trainer: Trainer) -> None:
        self._values = {name: trainer.parameters[name].detach().clone() for name in self.held}

    def after_backward(self, trainer: Trainer) -> None:
        for name, mask in self.held.items():
            gradient = trainer.parameters[name].grad
            if gradient is not None:
                gradient.masked_fill_(mask, 0.0)

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        for name, mask in self.held.items():
            p = trainer.parameters[name]
            p.copy_(torch.where(mask, self._values[name], p))

    def state_dict(self) -> dict[str, Any]:
        return {"held": self.held, "values": self._values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held, self._values = state["held"], state["values"]
