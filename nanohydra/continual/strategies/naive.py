"""Fine-tuning on each domain as it comes, with no care for the earlier ones: the row to beat.

    theta_k = argmin_theta L_k(theta), starting from theta_{k-1}

What it forgets is the measure of what the others keep (McCloskey and Cohen 1989, "Catastrophic interference").
"""

from __future__ import annotations

from nanohydra.continual.strategy import Strategy


class Naive(Strategy):
    """Nothing but the trainer."""
