"""Replay with a KL term on the replayed rows: not only their next tokens, but all that the model thought of them.

    L = CE(new and replayed rows) + w KL(p_{k-1}(x) || p_theta(x)),   x from the memory

Rehearsal fixes one right token a place; the teacher's whole distribution holds what the rows do not show, so fewer
rows keep more. Buzzega et al. 2020, "Dark experience for general continual learning" (arXiv 2004.07211), with the
previous model as teacher instead of stored logits, whose bytes a vocabulary of thousands would multiply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from nanohydra.continual.distill import near_teacher
from nanohydra.continual.learner import Speaker
from nanohydra.continual.strategies.replay import Replay, ReplaySettings
from nanohydra.continual.strategy import Settings, Setup, Stage
from nanohydra.train.objectives import Objective


@dataclass(frozen=True)
class KLReplaySettings(ReplaySettings):
    """The buffer, and how strongly the teacher counts on it."""

    weight: float = 1.0
    """Weight of the KL term."""

    teacher: Literal["previous", "base"] = "previous"
    """The model before the stage, or the base (which knows nothing of the domains in between)."""


class KLReplay(Replay):
    """Replay's batches, a teacher's objective."""

    settings_class: ClassVar[type[Settings]] = KLReplaySettings
    settings: KLReplaySettings
    teacher: Speaker

    def __init__(self, setup: Setup, settings: KLReplaySettings) -> None:
        super().__init__(setup, settings)
        if settings.teacher == "base":
            self.teacher = self.learner.base(self.dtype)

    def start_stage(self, stage: Stage) -> None:
        if self.settings.teacher == "previous":
            self.teacher = self.learner.snapshot(self.dtype)

    def objective(self, stage: Stage) -> Objective:
        return near_teacher(self.teacher, self.settings.weight, only_replayed=True)
