"""Hooks: how continual-learning strategies and diagnostics take part in the one training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanohydra.train.trainer import Trainer


class Hook:
    """Called around every step; override what is needed. Raise UserError to stop the training.

    What hooks can read of the trainer: `model`, `parameters` (name -> trained parameter), `optimizers`, `config`,
    `run`, `world`, `device`, `batch`, `step` (finished steps: 0 during the first one, 1 in its `after_step`), `loss`,
    `grad_norm`, `lr_share`, `will_log`. `metrics[name] = number` adds to the step's line in metrics.jsonl; `say(text)`
    speaks to the person. Within the objective the model computes with half-precision copies of its weights: a penalty
    on the weights themselves belongs into `after_backward`, as its gradient on the fp32 weights.
    """

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step of this process; when resuming, after `load_state_dict`."""

    def before_step(self, trainer: Trainer) -> None:
        """The batch is loaded, the gradients are None."""

    def after_backward(self, trainer: Trainer) -> None:
        """`.grad` holds the whole batch's gradient in fp32 (per target, before clipping) and may be changed."""

    def after_step(self, trainer: Trainer) -> None:
        """The weights are updated; the step's line is not yet written."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold for this hook: a tree of dicts and lists with tensors, numbers, text."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave (tensors come back on the CPU)."""
