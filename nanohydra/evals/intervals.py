"""A number with its uncertainty: the only form in which evaluations report results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A measured value, the number of observations behind it, and its confidence interval (95% unless told)."""

    value: float
    """The estimate itself; NaN where nothing was observed."""
    n: int
    """How many independent observations it rests on (questions, documents, seeds)."""
    low: float
    """Lower end of the interval; NaN where the data cannot tell (one document has no spread)."""
    high: float
    """Upper end of the interval; NaN where the data cannot tell."""

    def to_dict(self) -> dict[str, float | int | None]:
        """`{"value", "n", "low", "high"}` for JSON; what is unknown is None, since JSON has no NaN."""
        value, low, high = (x if math.isfinite(x) else None for x in (self.value, self.low, self.high))
        return {"value": value, "n": self.n, "low": low, "high": high}

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return f"{self.value:,.4g}" if abs(self.value) < 1000 else f"{self.value:,.0f}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"


def wilson(successes: float, n: int, confidence: float = 0.95) -> Estimate:
    """A share of `n` independent yes/no answers, with Wilson's score interval (Wilson 1927).

    Unlike value +- 2 standard errors it stays inside [0, 1] and is not empty at 0 or n successes. Ties may count as
    half a success. With n = 0 the value is NaN and the interval [0, 1].
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n: got {successes} of {n}")
    if n == 0:
        return Estimate(math.nan, 0, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, n, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def bootstrap_mean(values: ArrayLike, *, resamples: int = 5000, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """The mean of independent `values` (n,), with a bootstrap interval as in `bootstrap_ratio`."""
    values = np.asarray(values, dtype=float)
    return bootstrap_ratio(values, np.ones_like(values), resamples=resamples, confidence=confidence, seed=seed)


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, *, resamples: int = 5000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Sum over sum, resampling whole documents: bits per byte is `bootstrap_ratio(bits, bytes)`, one entry a document.

    The mean of each document's own ratio would let short documents count as much as long ones. The interval is the
    percentile bootstrap, widened for few documents: its tails are those at which a normal with the bootstrap's
    standard error matches Student's t (the "expanded percentile" of Hesterberg 2015, The American Statistician 69:4).

    Args:
        numerators: (n,) totals, one a document (bits, losses).
        denominators: (n,) positive totals, one a document (bytes, tokens).
    """
    top, bottom = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    n = len(top)
    if top.shape != bottom.shape or top.ndim != 1:
        raise ValueError(f"one numerator and one denominator for each document: got {top.shape} and {bottom.shape}")
    if n == 0:
        return Estimate(math.nan, 0, math.nan, math.nan)
    value = float(top.sum() / bottom.sum())
    if n == 1 or not math.isfinite(value):
        return Estimate(value, n, math.nan, math.nan)

    from scipy.special import stdtrit  # Student's t quantile; here, so that importing this module stays instant

    rng = np.random.default_rng(seed)
    rows = max(1, 2**21 // n)  # resamples drawn at once: bounds memory at about 16 MB of indices
    ratios = np.concatenate(
        [
            top[drawn].sum(axis=1) / bottom[drawn].sum(axis=1)
            for start in range(0, resamples, rows)
            for drawn in [rng.integers(0, n, size=(min(rows, resamples - start), n))]
        ]
    )
    tail = NormalDist().cdf(math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, (1 - confidence) / 2)))
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return Estimate(value, n, float(low), float(high))
