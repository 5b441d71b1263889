"""What the matrix R[i, j] (the metric on domain j after stage i) says of forgetting and transfer.

Every measure here is an improvement where it is positive and a loss where it is negative, but for forgetting and
intransigence, which are losses by name. A metric that is better when lower (a loss) is negated first: the numbers then
are in its units. For a loss these are nats, so that exp(forgetting) is the factor by which the perplexity rose.

    A_S    = mean_j G[S, j]                                        average at the end
    F      = mean_{j < S} max_{t_j <= i < S} G[i, j] - G[S, j]     forgetting (Chaudhry et al. 2018, arXiv 1801.10112)
    BWT    = mean_{j < S} G[S, j] - G[t_j, j]                      backward transfer (Lopez-Paz and Ranzato 2017)
    ZS     = mean_{j > first} G[t_j - 1, j] - G[0, j]              forward transfer before training on j (same)
    FWT    = mean_j G[t_j, j] - alone[j]                           forward transfer, against learning j alone
    I      = mean_j joint[t_j, j] - G[t_j, j]                      intransigence (Chaudhry et al. 2018)

G is R signed so that higher is better; t_j is the stage that trains domain j; the base's domain has t_j = 0, and row 0 is
measured before the first stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Matrix:
    """One metric of one run, over stages and domains."""

    values: Array
    """R (stages + 1, domains): row 0 before the first stage."""
    trained: tuple[int, ...]
    """For each domain the stage that trains it; 0 for the base's."""
    domains: tuple[str, ...]
    """Their names."""
    lower: bool = False
    """Whether lower is better."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.trained) or len(self.trained) != len(self.domains):
            raise ValueError(f"one column a domain: got {self.values.shape} for {len(self.domains)} domains")
        if not all(0 <= t < len(self.values) for t in self.trained):
            raise ValueError(f"domains are trained in stages 0 to {len(self.values) - 1}, not {self.trained}")

    @property
    def gain(self) -> Array:
        """R, signed so that higher is better."""
        return -self.values if self.lower else self.values

    @property
    def last(self) -> int:
        """The last stage."""
        return len(self.values) - 1

    def when_trained(self) -> Array:
        """(domains,) R[t_j, j]."""
        return self.values[list(self.trained), range(len(self.trained))]

    def average(self) -> float:
        """Mean over all domains at the end, in the metric itself (not signed)."""
        return float(self.values[-1].mean())

    def worst(self) -> float:
        """The worst of all domains at the end, in the metric itself."""
        return float(self.values[-1].max() if self.lower else self.values[-1].min())

    def forgetting_by_domain(self) -> dict[str, float]:
        """For each domain trained before the last stage what was lost since it was known best. It may be negative: what
        a domain has gained since."""
        g = self.gain
        return {
            name: float(g[t:-1, j].max() - g[-1, j])
            for j, (name, t) in enumerate(zip(self.domains, self.trained))
            if t < self.last
        }

    def forgetting(self) -> float:
        """F; NaN where no domain was trained before the last stage."""
        return _mean(list(self.forgetting_by_domain().values()))

    def backward_transfer(self) -> float:
        """BWT."""
        g = self.gain
        return _mean([g[-1, j] - g[t, j] for j, t in enumerate(self.trained) if t < self.last])

    def zero_shot_transfer(self) -> float:
        """ZS: what the stages between the base and j did for j before it was trained."""
        g = self.gain
        return _mean([g[t - 1, j] - g[0, j] for j, t in enumerate(self.trained) if t > 1])

    def forward_transfer_by_domain(self, alone: Matrix) -> dict[str, float]:
        """For each domain after the base's what it gained, when trained, against `alone`, a run without the earlier
        ones."""
        gained = self.gain[list(self.trained), range(len(self.trained))] - _signed(alone)
        return {name: float(x) for name, x, t in zip(self.domains, gained, self.trained) if t > 0}

    def forward_transfer(self, alone: Matrix) -> float:
        """FWT."""
        return _mean(list(self.forward_transfer_by_domain(alone).values()))

    def intransigence(self, joint: Matrix) -> float:
        """I: what joint training reaches on a new domain and this run does not."""
        lacking = _signed(joint) - self.gain[list(self.trained), range(len(self.trained))]
        return _mean([float(x) for x, t in zip(lacking, self.trained) if t > 0])


def _signed(matrix: Matrix) -> Array:
    """(domains,) G[t_j, j]."""
    return -matrix.when_trained() if matrix.lower else matrix.when_trained()


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
