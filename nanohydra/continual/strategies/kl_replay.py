"""Replay with a KL term on the replayed rows: not only their next tokens, but all that the model thought of them.

    L = CE(new and replayed rows) + w KL(p_{k-1}(x) || p_theta(x)),   x from the memory

Rehearsal fixes one right token a place; the teacher's whole distribution holds what the rows do not show, so fewer
rows keep more. Buzzega et al. 2020, "Dark experience for general continual learning" (arXiv 2004.07211), with the
previous model as teacher instead of stored logits, whose bytes a vocabulary of thousands would multiply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nanohydra.continual.distill import near_teacher
from nanohydra.continual.strategies.lwf import LwF, LwFSettings
from nanohydra.continual.strategies.replay import Replay, ReplaySettings
from nanohydra.continual.strategy import Settings, Stage
from nanohydra.train.objectives import Objective


@dataclass(frozen=True)
class KLReplaySettings(LwFSettings, ReplaySettings):
    """The buffer, and how strongly the teacher counts on it."""


class KLReplay(LwF, Replay):
    """Replay's batches, a teacher's objective."""

    settings_class: ClassVar[type[Settings]] = KLReplaySettings
    settings: KLReplaySettings

    def objective(self, stage: Stage) -> Objective:
        weight, temperature = self.settings.weight, self.settings.temperature
        return near_teacher(self.teacher, weight, only_replayed=True, temperature=temperature)
