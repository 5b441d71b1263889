"""The statistics of paired comparisons, over seeds and evaluation items.

A comparison of two variants is a matrix of differences D (S, I): one row a seed, one column an evaluation item,
positive where the second variant is better. Runs without items have I = 1. The model behind every figure here is

    D[s, i] = delta + seed_s + item_i + noise_si        seeds and items both drawn at random

so that a verdict speaks of new seeds and new items, not of those that happened to be used. Where each seed has items of
its own, its mean difference already holds the luck of both, and the matrix is the column of those means.

What decides is `paired_test`: Student's paired t, widened for the items. With 3 to 10 seeds it keeps its promise of at
most 5% false alarms where bootstrap intervals do not: with 3 seeds the percentile interval excludes zero in 25% of
comparisons of a thing with itself (`bench/lab_statistics.py` measures this). Bootstrap intervals are reported beside it.
What t cannot see, runs that either learn a thing or do not, is kept in check by `least_p`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanohydra.evals.intervals import Estimate, wilson

Array = NDArray[np.float64]


# ---------------------------------------------------------------- the test that decides


@dataclass(frozen=True)
class PairedTest:
    """A mean difference with its interval, its p-value against zero, and the sources of its uncertainty."""

    difference: Estimate
    """Mean of D; n is the number of seeds; the interval is for new seeds and new items."""
    p: float
    """Two-sided p-value of "no difference", never below `least_p`; NaN with fewer than two seeds."""
    seed_variance: float
    """Variance of one seed's mean difference: its part of the uncertainty shrinks with more seeds."""
    item_variance: float
    """Squared standard error owed to the choice of items: more seeds leave it as it is."""
    items: int
    """Number of items shared by the seeds (1: none)."""
    overlap: float
    """Cross-validation's correction: test share over training share of a fold; 0 for independent seeds."""

    def variances(self, seeds: int | None = None) -> tuple[float, float]:
        """The squared standard error that `seeds` seeds (default: those at hand) and the items each contribute."""
        return self.seed_variance * (1 / (seeds or self.difference.n) + self.overlap), self.item_variance

    def standard_error(self, seeds: int | None = None) -> float:
        """Standard error of the mean difference with this many seeds."""
        return math.sqrt(sum(self.variances(seeds)))

    def margin(self, alpha: float = 0.05, seeds: int | None = None) -> float:
        """Half the width of the 1 - alpha interval: a mean difference beyond it has p < alpha (or `least_p`).

        The critical value is Cochran's (1964) average of the two t quantiles, weighted by the variances. The more usual
        Satterthwaite degrees of freedom gave up to 8% false alarms with 3 seeds; this gave at most 5.
        """
        from scipy.special import stdtrit

        of_seeds, of_items = self.variances(seeds)
        if of_seeds + of_items == 0:
            return 0.0
        t_seeds = -float(stdtrit((seeds or self.difference.n) - 1, alpha / 2))
        t_items = -float(stdtrit(self.items - 1, alpha / 2)) if of_items > 0 else 0.0
        return (of_seeds * t_seeds + of_items * t_items) / math.sqrt(of_seeds + of_items)


def paired_test(differences: ArrayLike, *, overlap: float = 0.0, confidence: float = 0.95) -> PairedTest:
    """Is the mean of `differences`, (S, I) or (S,), zero? The paired t test, with a second variance for shared items.

    Two-way random effects without replication: with mean squares MS between seeds, between items, and of what is left,
    the variance of the grand mean is MS_seeds/(S I) + max(0, MS_items - MS_left)/(S I). The first term is the squared
    standard error of the ordinary paired t test over seed means, so that without items this *is* that test. Clipping
    the second at zero errs on the side of caution. Differences without any spread (rounded scores) leave t undefined:
    then the exact sign-flip test decides.

    Args:
        overlap: for k-fold cross-validation 1/(k-1): folds share training data, and the plain t test is too sure of
            itself (Nadeau and Bengio 2003, "Inference for the generalization error").
    """
    from scipy.optimize import brentq

    d = np.atleast_2d(np.asarray(differences, dtype=float).T).T
    seeds, items = d.shape
    value = float(d.mean())
    if seeds < 2:
        unknown = Estimate(value, seeds, math.nan, math.nan)
        return PairedTest(unknown, math.nan, math.nan, math.nan, items, overlap)

    by_seed, by_item = d.mean(axis=1), d.mean(axis=0)
    item_variance = 0.0
    if items > 1:
        left = d - by_seed[:, None] - by_item + value
        of_left = float((left**2).sum()) / ((seeds - 1) * (items - 1)) / (seeds * items)
        item_variance = max(0.0, float(by_item.var(ddof=1)) / items - of_left)
    seed_variance = float(by_seed.var(ddof=1)) if has_spread(by_seed) else 0.0

    blank = PairedTest(Estimate(value, seeds, value, value), math.nan, seed_variance, item_variance, items, overlap)
    margin = blank.margin(1 - confidence)
    if margin == 0:
        return replace(blank, p=sign_flip_p(by_seed))
    least = max(least_p(seeds), 1e-16)
    beyond = blank.margin(least) <= abs(value)
    p = least if beyond else float(brentq(lambda alpha: blank.margin(alpha) - abs(value), least, 1.0))
    return replace(blank, p=p, difference=Estimate(value, seeds, value - margin, value + margin))


def least_p(seeds: int) -> float:
    """The smallest p-value that this many seeds can support.

    Some runs learn a thing or fail to, with nothing between. Two such runs drawn alike differ one way with chance at
    most 1/4, so that all pairs differ the same way with chance up to 2 / 4**seeds, and then with hardly any spread: t
    is huge. Without this bound 3 seeds gave 9% false alarms over three such comparisons. It allows 3 seeds one
    comparison at the 0.05 level, 4 seeds a family of 6, 5 seeds one of 25.
    """
    return 2 * 0.25**seeds


def fewest_seeds(family: int, alpha: float = 0.05) -> int:
    """The fewest seeds with which any of `family` comparisons can pass Holm's correction."""
    return next(n for n in itertools.count(2) if least_p(n) * family <= alpha)


def sign_flip_p(differences: ArrayLike, *, draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided permutation p-value over seeds (S,): were the variants one, any difference could as well be negated.

    Exact up to 14 seeds, drawn at random above. Exact for any symmetric distribution, but it cannot go below 2 / 2**S:
    with fewer than 6 seeds it never reaches 0.05, which is why it does not decide.
    """
    d = np.asarray(differences, dtype=float)
    if len(d) <= 14:
        signs = 1.0 - 2 * ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1)  # every pattern; row 0: all +
    else:
        signs = np.random.default_rng(seed).choice([1.0, -1.0], size=(draws, len(d)))
        signs[0] = 1.0  # the data as they are count among the draws, so that p is never 0
    sums = np.abs(signs @ d)
    return float(np.mean(sums >= sums[0] - 1e-9 * np.abs(d).sum()))


def has_spread(values: Array) -> bool:
    """Do the values differ by more than rounding errors of their arithmetic?"""
    return float(np.ptp(values)) > 1e-9 * float(np.abs(values).max())


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being one family (Holm 1979): each may be compared with 0.05 as if it stood alone.

    NaN (a comparison that could not be made) stays NaN and does not count.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


# ---------------------------------------------------------------- bootstrap intervals


def bootstrap_means(
    differences: Array | Sequence[Array], *, resamples: int = 10_000, seed: int | np.random.Generator = 0
) -> Array:
    """Means (resamples,) of hierarchical bootstrap samples over seeds and items.

    An array (S, I) has items shared by all seeds: rows and columns are resampled independently (Owen 2007, "The
    pigeonhole bootstrap"). A sequence of S arrays has items of its own for each seed: first seeds are drawn, then items
    within each. With I = 1 either is the ordinary bootstrap, draw for draw that of `scipy.stats.bootstrap`.
    """
    rng = np.random.default_rng(seed)
    seeds = len(differences)
    counts = _counts(rng, seeds, resamples)
    if not isinstance(differences, np.ndarray):
        means = np.zeros(resamples)
        for drawn, own in zip(counts.T, differences):
            # A seed drawn c times brings c independent samples of its n items: n * c draws in one multinomial.
            share = np.full(len(own), 1 / len(own))
            means += rng.multinomial(drawn.astype(np.int64) * len(own), share) @ own / len(own)
        return means / seeds
    items = differences.shape[1]
    by_item = counts @ differences / seeds  # (resamples, I)
    if items == 1:
        return by_item[:, 0]
    rows = max(1, 2**21 // items)  # bounds memory
    return np.concatenate(
        [
            (by_item[start : start + rows] * _counts(rng, items, min(rows, resamples - start))).sum(axis=1) / items
            for start in range(0, resamples, rows)
        ]
    )


def _counts(rng: np.random.Generator, n: int, resamples: int) -> Array:
    """How often each of `n` things is drawn in each of `resamples` samples of size n: (resamples, n)."""
    drawn = rng.integers(0, n, size=(resamples, n))
    flat = (drawn + n * np.arange(resamples)[:, None]).ravel()
    return np.bincount(flat, minlength=n * resamples).reshape(resamples, n).astype(float)


def percentile_interval(means: Array, confidence: float = 0.95) -> tuple[float, float]:
    """The middle `confidence` share of bootstrap `means` (Efron 1979)."""
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bca_interval(means: Array, differences: Array, confidence: float = 0.95) -> tuple[float, float]:
    """Bias-corrected and accelerated interval (Efron 1987) for the mean of `differences` (S, I), from its bootstrap.

    The acceleration is the jackknife's, seeds and items being two samples. With I = 1 it is that of scipy.
    """
    from scipy.special import ndtr, ndtri

    value = float(differences.mean())
    tie = np.abs(means - value) <= 1e-12 * max(1.0, float(np.abs(differences).max()))
    below = float(np.mean(np.where(tie, 0.5, means < value)))
    if not 0 < below < 1:  # no bootstrap mean on one side: differences without spread
        return percentile_interval(means, confidence)
    influences = [differences.mean(axis=1) - value, differences.mean(axis=0) - value]
    cubes = sum(float((u**3).sum()) / len(u) ** 3 for u in influences)
    squares = sum(float((u**2).sum()) / len(u) ** 2 for u in influences)
    acceleration = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    bias = float(ndtri(below))
    z = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(means, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


# ---------------------------------------------------------------- how large, how often


def probability_better(differences: ArrayLike) -> Estimate:
    """P(B better than A) for one new seed: the share of seeds (S,) with a positive difference, ties counting half."""
    d = np.asarray(differences, dtype=float)
    return wilson(float((d > 0).sum() + 0.5 * (d == 0).sum()), len(d))


def hedges_g(differences: ArrayLike) -> float:
    """Effect size of paired differences (S,): mean over standard deviation, unbiased for few seeds.

    Hedges 1981: d times J = gamma(m/2) / (sqrt(m/2) gamma((m-1)/2)), m = S - 1. NaN with under 3 seeds or no spread.
    """
    d = np.asarray(differences, dtype=float)
    m = len(d) - 1
    if m < 2 or not has_spread(d):
        return math.nan
    correction = math.exp(math.lgamma(m / 2) - math.lgamma((m - 1) / 2)) / math.sqrt(m / 2)
    return correction * float(d.mean() / d.std(ddof=1))


# ---------------------------------------------------------------- what could have been seen


def power(test: PairedTest, effect: float, *, alpha: float = 0.05, seeds: int | None = None) -> float:
    """The chance that a true difference of `effect` gives p <= alpha, with the spread of `test` and this many seeds.

    The noncentral t distribution as an average over the measured standard error: with w that error over the true one,
    the test rejects with probability Phi(shift - c w) + Phi(-shift - c w). (`scipy.stats.nct` agrees, but gives NaN for
    2 or 3 seeds.) Exact without items; the variance of items is taken as known, there being many.
    """
    from scipy.special import ndtr

    seeds = seeds or test.difference.n
    if alpha < least_p(seeds):
        return 0.0
    of_seeds, of_items = test.variances(seeds)
    total = of_seeds + of_items
    critical = test.margin(alpha, seeds) / math.sqrt(total)
    shift = abs(effect) / math.sqrt(total)
    w = np.sqrt((of_seeds * _chi_squared_over_df(seeds - 1) + of_items) / total)
    return float(np.mean(ndtr(shift - critical * w) + ndtr(-shift - critical * w)))


@functools.lru_cache(maxsize=256)
def _chi_squared_over_df(df: int) -> Array:
    """1000 equally probable values of a chi-squared variable over its degrees of freedom."""
    from scipy.special import gammaincinv

    quantiles: Array = gammaincinv(df / 2, (np.arange(1000) + 0.5) / 1000) / (df / 2)
    return quantiles


def detectable_effect(test: PairedTest, *, alpha: float = 0.05, target: float = 0.8) -> float:
    """The smallest true difference that these seeds and items show with probability `target`.

    NaN where the spread is unknown; infinite where these seeds are too few for any difference (`least_p`).
    """
    from scipy.optimize import brentq

    error = test.standard_error() if test.difference.n > 1 else 0.0
    if error == 0:
        return math.nan
    if alpha < least_p(test.difference.n):
        return math.inf
    high = 4.0
    while power(test, high * error, alpha=alpha) < target:
        high *= 2
    return error * float(brentq(lambda shift: power(test, shift * error, alpha=alpha) - target, 0.0, high))


def seeds_needed(
    test: PairedTest, effect: float, *, alpha: float = 0.05, target: float = 0.8, most: int = 10_000
) -> int | None:
    """The fewest seeds that would show a true difference of `effect` with probability `target`.

    None where even `most` seeds would not (the items at hand are too few for it), or where the spread is unknown.
    """
    if test.difference.n < 2 or test.standard_error() == 0 or effect == 0:
        return None
    low, high = 1, 2  # power grows with seeds: double until enough, then halve the gap
    while power(test, effect, alpha=alpha, seeds=high) < target:
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(test, effect, alpha=alpha, seeds=middle) >= target
        low, high = (low, middle) if enough else (middle, high)
    return high


def spread_uncertainty(n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The true standard deviation over that measured on `n` normal values: an interval of factors (chi-squared)."""
    from scipy.stats import chi2

    low, high = chi2.ppf([(1 + confidence) / 2, (1 - confidence) / 2], n - 1)
    return math.sqrt((n - 1) / low), math.sqrt((n - 1) / high)
