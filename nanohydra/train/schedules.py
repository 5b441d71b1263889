"""Learning-rate schedules: the share of the peak rate as a function of the run's progress from 0 to 1.

Progress is the share of the budget that is used up, be it steps, tokens or seconds; so one schedule serves all three,
and one that follows the clock has cooled down when the time is up, however slow the machine was.
"""

from __future__ import annotations

import math

from nanohydra.train.config import TrainConfig


def lr_share(progress: float, config: TrainConfig) -> float:
    """The learning rate at `progress` (0..1), as a share of the peak.

    Linear warmup, then: cosine to `final_lr` (Loshchilov & Hutter 2017); wsd, which holds the peak and then cools down
    linearly or as 1 - sqrt (Hägele et al. 2024, eq. 1); or constant.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return progress / config.warmup
    if config.schedule == "constant":
        return 1.0
    start = config.warmup if config.schedule == "cosine" else 1.0 - config.decay
    if progress <= start or start >= 1.0:
        return 1.0
    x = (progress - start) / (1.0 - start)
    if config.schedule == "cosine":
        fall = 0.5 * (1.0 + math.cos(math.pi * x))
    else:
        fall = 1.0 - (math.sqrt(x) if config.decay_shape == "sqrt" else x)
    return config.final_lr + (1.0 - config.final_lr) * fall
