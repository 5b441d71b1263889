"""Online EWC: one running Fisher and one anchor, whatever the number of domains.

    L_k(theta) + lambda / 2 sum_i F_i (theta_i - theta*_{k-1,i})^2,   F <- gamma F + F_k

Schwarz et al. 2018, "Progress and compress" (arXiv 1805.06370), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nanohydra.continual.strategies.ewc import EWC, EWCSettings, Springs
from nanohydra.continual.strategy import Settings


@dataclass(frozen=True)
class OnlineEWCSettings(EWCSettings):
    """How stiff the springs are, and how they age."""

    gamma: float = 1.0
    """How much of the earlier Fisher a new domain leaves."""


class OnlineEWC(EWC):
    """Moves the one anchor along."""

    settings_class: ClassVar[type[Settings]] = OnlineEWCSettings
    settings: OnlineEWCSettings

    def keep(self, spring: Springs) -> None:
        if self.springs:
            earlier = self.springs[0].fisher
            spring.fisher = {name: f + self.settings.gamma * earlier[name] for name, f in spring.fisher.items()}
        self.springs[:] = [spring]
