"""Training on all domains met so far at once, from the base: the upper bound, which needs all data for ever.

    theta_k = argmin_theta sum_{j <= k} L_j(theta), starting from the base

The budget grows with the number of domains, so that each is trained on as long as by the other strategies. Caruana
1997, "Multitask learning".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from nanohydra.continual.domains import Domain
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.data.loader import Mixed
from nanohydra.errors import UserError
from nanohydra.train.config import TrainConfig


@dataclass(frozen=True)
class JointSettings(Settings):
    """How the union is mixed."""

    balance: Literal["equal", "rows"] = "equal"
    """equal: as many rows of every domain. rows: as many as it has, which is the plain union of all text."""


class Joint(Strategy):
    """Starts each stage from the base's weights."""

    settings_class: ClassVar[type[Settings]] = JointSettings
    settings: JointSettings

    def __init__(self, setup: Setup, settings: JointSettings) -> None:
        super().__init__(setup, settings)
        self.start = self.learner.state_dict()
        self._text_bytes = 0

    def start_stage(self, stage: Stage) -> None:
        self.learner.load_state_dict(self.start)

    def batches(self, stage: Stage) -> Mixed:
        domains = _with_text(stage)
        weights = [d.rows if self.settings.balance == "rows" else 1 for d in domains]
        return Mixed([d.source for d in domains if d.source], weights, stage.train.batch_size)

    def train_config(self, stage: Stage) -> TrainConfig:
        if stage.train.steps is None:
            raise UserError(
                "joint needs a budget in steps, to give each domain as many as the others do: set train.steps."
            )
        return replace(stage.train, steps=stage.train.steps * len(_with_text(stage)))

    def stored(self) -> dict[str, int]:
        return {**super().stored(), "text": self._text_bytes}

    def end_stage(self, stage: Stage) -> None:
        # Token ids of 2 bytes: all text is kept.
        self._text_bytes += 2 * stage.domain.rows * self.setup.seq_len

    def state_dict(self) -> dict[str, object]:
        return {**super().state_dict(), "text_bytes": self._text_bytes}

    def load_state_dict(self, state: dict[str, object]) -> None:
        super().load_state_dict(state)
        self._text_bytes = int(state["text_bytes"])  # type: ignore[call-overload]


def _with_text(stage: Stage) -> list[Domain]:
    return [domain for domain in (*stage.earlier, stage.domain) if domain.source is not None]
