"""What a loss that is no longer a number tells: the step, the suspected cause, the way back."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from nanohydra.errors import UserError


class Diverged(UserError):
    """The loss or the gradient is NaN or infinite. The weights are still those of before the step."""


class Watch:
    """Remembers the last gradient norms and losses, to name a cause when the loss breaks."""

    def __init__(self, length: int = 50) -> None:
        self.norms: deque[float] = deque(maxlen=length)
        self.losses: deque[float] = deque(maxlen=length)

    def add(self, loss: float, norm: float) -> None:
        """Notes a healthy step."""
        self.losses.append(loss)
        self.norms.append(norm)

    def state_dict(self) -> dict[str, list[float]]:
        """For the checkpoint."""
        return {"losses": list(self.losses), "norms": list(self.norms)}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """The inverse of `state_dict`."""
        self.losses.extend(state["losses"])
        self.norms.extend(state["norms"])

    def diverged(
        self,
        step: int,
        loss: float,
        norm: float,
        lr: float,
        weights: Iterable[Tensor],
        fp16: bool,
        checkpoint: Path | None,
    ) -> Diverged:
        """The error to raise: step (counted from 0), suspected cause, last good checkpoint."""
        what = (
            f"The loss is {loss}"
            if not math.isfinite(loss)
            else f"The loss is {loss:.4g} but the gradient's norm is {norm}"
        )
        kept = f"Last good checkpoint: {checkpoint}." if checkpoint else "No checkpoint was saved yet."
        cause = self._cause(lr, all(bool(torch.isfinite(w).all()) for w in weights), fp16)
        return Diverged(f"{what} at step {step}. {cause} {kept}")

    def _cause(self, lr: float, weights_finite: bool, fp16: bool) -> str:
        if not weights_finite:
            return "Some weights were already NaN or infinite before this step: the base they come from is damaged."
        if not self.norms:
            return "It is the first step, so suspect the data or the model itself rather than the learning rate."
        advice = "Lower it, lengthen the warmup or clip harder."
        if len(self.norms) < 10:
            steps = f"within the first {len(self.norms)} steps"
            return f"It broke {steps}: the learning rate ({lr:.3g} now) is probably too high. {advice}"
        norm, usual = max(list(self.norms)[-5:]), statistics.median(self.norms)
        loss, best = max(list(self.losses)[-5:]), min(self.losses)
        if norm > 5 * usual or loss > 1.5 * best + 0.5:
            return (
                f"The learning rate ({lr:.3g} now) is probably too high: in the steps before, the gradient's norm "
                f"reached {norm:.3g} (median {usual:.3g}) and the loss {loss:.3g}. {advice}"
            )
        if fp16:
            return "Loss and gradients were calm before, so suspect an overflow of fp16: use dtype bf16 or fp32."
        return "Loss and gradients were calm before, so suspect this step's batch: look for broken text or targets."
