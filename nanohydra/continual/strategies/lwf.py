"""Learning without forgetting: on the new domain's own rows, stay near what the model said before the stage.

    L_k = CE(y, p_theta(x)) + w T^2 KL(p_{k-1}(x)^{1/T} || p_theta(x)^{1/T}),   x from domain k

Li and Hoiem 2016 (arXiv 1606.09282). Nothing is stored: the teacher is the model itself as the stage begins (or, with
teacher: base, the base, which has to be kept).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from nanohydra.continual.distill import near_teacher
from nanohydra.continual.learner import Speaker
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.train.objectives import Objective


@dataclass(frozen=True)
class LwFSettings(Settings):
    """How strongly the teacher counts."""

    weight: float = 1.0
    """Weight of the KL term."""

    temperature: float = 1.0
    """Both distributions are softened by it."""

    teacher: Literal["previous", "base"] = "previous"
    """The model before the stage, or the base (which knows nothing of the domains in between)."""


class LwF(Strategy):
    """Keeps a frozen copy for the time of a stage."""

    settings_class: ClassVar[type[Settings]] = LwFSettings
    settings: LwFSettings
    teacher: Speaker

    def __init__(self, setup: Setup, settings: LwFSettings) -> None:
        super().__init__(setup, settings)
        if settings.teacher == "base":
            self.teacher = self.learner.base(self.dtype)

    def start_stage(self, stage: Stage) -> None:
        if self.settings.teacher == "previous":
            self.teacher = self.learner.snapshot(self.dtype)

    def objective(self, stage: Stage) -> Objective:
        return near_teacher(self.teacher, self.settings.weight, temperature=self.settings.temperature)

    def stored(self) -> dict[str, int]:
        keeps_base = self.settings.teacher == "base" and not self.settings.adapter
        teacher = sum(p.numel() * p.element_size() for p in self.model.parameters())
        return {**super().stored(), **({"teacher": teacher} if keeps_base else {})}
