"""Which of two adapters is better, by what people think of their answers. A conversation always meets the same one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nanohydra.evals.intervals import Estimate
from nanohydra.lab.verdict import number, p_value
from nanohydra.store import Trial, Vote

Arm = Literal["a", "b"]
LEAST_VOTES = 5
"""Conversations of each arm below which nothing is said."""


def arm_of(trial_id: int, user_id: int, unit: str) -> Arm:
    """The arm of a conversation: by chance, and always the same."""
    digest = hashlib.sha256(f"{trial_id}\n{user_id}\n{unit}".encode()).digest()
    return "a" if digest[0] % 2 == 0 else "b"


def adapter_of(trial: Trial, arm: str) -> str | None:
    """The adapter of an arm; None: the base."""
    return trial.a if arm == "a" else trial.b


def verdict(votes: Sequence[Vote]) -> dict[str, Any]:
    """How the arms compare, as plain data: each arm's mean score, the difference b - a, and a sentence.

    Welch's t test: the arms are different conversations, whose scores may spread differently."""
    scores = {arm: np.array([vote.score for vote in votes if vote.arm == arm]) for arm in ("a", "b")}
    a, b = scores["a"], scores["b"]
    means = {arm: _mean(values).to_dict() for arm, values in scores.items()}
    if min(len(a), len(b)) < LEAST_VOTES:
        text = f"Not to be told yet: {len(a)} and {len(b)} conversations were judged, and each arm needs {LEAST_VOTES}."
        return {"finding": "unknown", "arms": means, "difference": None, "p": None, "text": text}
    difference, p = welch(a, b)
    finding = "none" if p > 0.05 else "b" if difference.value > 0 else "a"
    told = f"b scores {number(abs(difference.value))} {'more' if difference.value >= 0 else 'less'} than a"
    interval = f"95% interval {number(difference.low)} to {number(difference.high)}, {p_value(p)}"
    start = {"none": "No evidence of a difference", "a": "a is better", "b": "b is better"}[finding]
    return {
        "finding": finding,
        "arms": means,
        "difference": difference.to_dict(),
        "p": p,
        "text": f"{start}: {told} ({interval}).",
    }


def welch(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[Estimate, float]:
    """mean(b) - mean(a) of two independent samples (n,), its 95% interval, and the p-value of none (Welch 1947)."""
    from scipy.special import stdtr, stdtrit

    n = len(a) + len(b)
    value, parts = float(b.mean() - a.mean()), (a.var(ddof=1) / len(a), b.var(ddof=1) / len(b))
    error = math.sqrt(sum(parts))
    if error == 0:  # all scores of each arm are the same
        return Estimate(value, n, value, value), 1.0 if value == 0 else 0.0
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    half = -float(stdtrit(freedom, 0.025)) * error
    return Estimate(value, n, value - half, value + half), 2 * float(stdtr(freedom, -abs(value) / error))


def _mean(values: np.ndarray[Any, Any]) -> Estimate:
    from nanohydra.evals.intervals import bootstrap_mean

    return bootstrap_mean(values)
