"""From a table of scores to an analysis: each comparison with its interval, its p-value and what it could have seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanohydra.errors import UserError, did_you_mean
from nanohydra.evals.intervals import Estimate
from nanohydra.lab import statistics
from nanohydra.lab.checks import BudgetCheck, absences, check_budgets, unequal_budgets
from nanohydra.lab.config import Metric
from nanohydra.lab.table import Scores, directions, read_scores

Array = NDArray[np.float64]
Finding = Literal["better", "worse", "none", "unsettled", "unknown"]
"""none: no evidence of a difference; unsettled: the winner lost runs; unknown: too few runs to say."""


Histogram = tuple[tuple[float, ...], tuple[int, ...]]
"""Edges (n + 1) and counts (n)."""


@dataclass(frozen=True)
class Comparison:
    """One variant against another in one metric. Differences are improvements: positive where `variant` is better."""

    metric: Metric
    baseline: str
    variant: str
    finding: Finding
    units: tuple[str, ...]
    """The seeds (or folds) compared: those that both variants have."""
    items: int
    """Evaluation items shared by all of these seeds (1: none)."""
    items_left_out: int
    """Items that not all of the compared runs have."""
    by_unit: tuple[float, ...]
    """The improvement of each seed."""
    difference: Estimate
    """The mean improvement and its interval. With one seed and several items, the interval is over items alone."""
    relative: float
    """The mean improvement as a share of the baseline's mean."""
    p: float
    """p-value of this comparison alone; NaN where it cannot be had."""
    p_family: float
    """p-value after Holm's correction over the family."""
    family: int
    """How many comparisons the family has."""
    p_sign_flip: float
    """The permutation p-value over seeds, beside."""
    percentile: tuple[float, float]
    """Percentile interval of the hierarchical bootstrap."""
    bca: tuple[float, float]
    """Bias-corrected and accelerated interval of the same."""
    histogram: Histogram
    """The bootstrap means."""
    chance_better: Estimate
    """P(variant better than baseline) for one new seed."""
    effect_size: float
    """Hedges' g of the improvements by seed."""
    spread: float
    """Standard deviation of the improvements by seed."""
    detectable: float
    """The smallest true difference that would be seen 8 times in 10, at the strictest step of the correction."""
    seeds_for_observed: int | None
    """Seeds that would show a true difference as large as the one observed; None if seeds alone cannot."""
    seeds_for_effect: int | None
    """Seeds that would show the smallest difference that matters (`metric.effect`)."""
    lost: Mapping[str, Mapping[str, str]]
    """For either variant the seeds that ran without giving a score, and why."""


@dataclass(frozen=True)
class Summary:
    """One variant in one metric: its mean over seeds with a t interval, and each seed."""

    metric: str
    variant: str
    mean: Estimate
    by_unit: Mapping[str, float]


@dataclass(frozen=True)
class Analysis:
    """All that is known about a table of scores."""

    baseline: str
    variants: tuple[str, ...]
    metrics: tuple[Metric, ...]
    unit_name: str
    units: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    summaries: tuple[Summary, ...]
    budgets: tuple[BudgetCheck, ...]
    tolerance: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; NaN becomes None."""
        return dict(_plain(dataclasses.asdict(self)))


def compare(
    rows: Iterable[Mapping[str, Any]],
    metrics: Sequence[Metric] | None = None,
    *,
    lower: Collection[str] = (),
    higher: Collection[str] = (),
    baseline: str | None = None,
    pairs: Literal["baseline", "all"] = "baseline",
    held_equal: Collection[str] = (),
    tolerance: float = 0.01,
    resamples: int = 10_000,
    seed: int = 0,
) -> Analysis:
    """Compares variants, paired by seed (or fold) and by item where there are items.

    Args:
        rows: see `table.read_scores`: variant, seed or fold, maybe item, metrics, maybe budgets and status.
        metrics: what to compare and which way is better (default: every metric column, `lower` and `higher` telling
            the way, else its name).
        baseline: the variant to compare with (default: the first).
        pairs: compare each variant with the baseline, or every two variants.
        held_equal: budgets that must agree within `tolerance`; unequal ones are noted.
        resamples: bootstrap resamples, drawn with `seed`.
    """
    scores = read_scores(rows, [m.name for m in metrics] if metrics is not None else None)
    notes = list(scores.notes)
    if metrics is None:
        metrics, guesses = directions(scores.values, lower, higher)
        notes += guesses
    baseline = scores.variants[0] if baseline is None else baseline
    if baseline not in scores.variants:
        raise UserError(f'There is no variant "{baseline}" to compare with.{did_you_mean(baseline, scores.variants)}')
    others = [v for v in scores.variants if v != baseline]
    if not others:
        raise UserError(f'There is only the variant "{baseline}": a comparison needs two.')
    couples = [(baseline, v) for v in others] if pairs == "baseline" else list(combinations([baseline, *others], 2))
    found = [_compare(scores, m, a, b, resamples, seed) for m in metrics for a, b in couples]
    budgets = check_budgets(scores, baseline, held_equal, tolerance)
    return Analysis(
        baseline=baseline,
        variants=tuple(scores.variants),
        metrics=tuple(metrics),
        unit_name=scores.unit_name,
        units=tuple(scores.units),
        comparisons=tuple(_as_family([c for c, _ in found], [t for _, t in found])),
        summaries=tuple(_summary(scores, m, v) for m in metrics for v in scores.variants),
        budgets=tuple(budgets),
        tolerance=tolerance,
        notes=(*notes, *absences(scores), *_item_notes(c for c, _ in found), *unequal_budgets(budgets, baseline)),
    )


# ---------------------------------------------------------------- one comparison


def _compare(
    scores: Scores, metric: Metric, baseline: str, variant: str, resamples: int, seed: int
) -> tuple[Comparison, statistics.PairedTest]:
    """The comparison before it is known how large its family is, and the test it rests on."""
    ours, theirs = scores.values[metric.name][variant], scores.values[metric.name][baseline]
    units = [u for u in scores.units if u in ours and u in theirs]
    differences, shared, left_out = _differences(metric, [ours[u] for u in units], [theirs[u] for u in units])
    by_unit = np.array([d.mean() for d in differences])
    matrix = np.stack(differences) if shared and units else by_unit[:, None]
    overlap = 1 / (scores.folds - 1) if scores.folds > 1 else 0.0
    test = statistics.paired_test(matrix, overlap=overlap) if units else _no_test(overlap)
    difference = test.difference
    if len(units) == 1 and differences[0].size > 1:
        over_items = statistics.paired_test(differences[0]).difference
        difference = Estimate(over_items.value, 1, over_items.low, over_items.high)

    nothing = (math.nan, math.nan)
    percentile, bca = nothing, nothing
    histogram: Histogram = ((), ())
    if len(units) > 1:
        means = statistics.bootstrap_means(matrix if shared else differences, resamples=resamples, seed=seed)
        percentile = statistics.percentile_interval(means)
        bca = statistics.bca_interval(means, matrix)
        histogram = _histogram(means)
    reference = abs(np.mean([_mean(theirs[u]) for u in units])) if units else 0.0
    return Comparison(
        metric=metric,
        baseline=baseline,
        variant=variant,
        finding="unknown",
        units=tuple(units),
        items=matrix.shape[1],
        items_left_out=left_out,
        by_unit=tuple(by_unit.tolist()),
        difference=difference,
        relative=float(difference.value / reference) if reference > 0 else math.nan,
        p=test.p,
        p_family=math.nan,
        family=0,
        p_sign_flip=statistics.sign_flip_p(by_unit) if len(units) > 1 else math.nan,
        percentile=percentile,
        bca=bca,
        histogram=histogram,
        chance_better=statistics.probability_better(by_unit),
        effect_size=statistics.hedges_g(by_unit),
        spread=float(by_unit.std(ddof=1)) if len(units) > 1 else math.nan,
        detectable=math.nan,
        seeds_for_observed=None,
        seeds_for_effect=None,
        lost={v: dict(scores.lost[metric.name][v]) for v in (baseline, variant)},
    ), test


def _differences(
    metric: Metric, ours: list[dict[str, float]], theirs: list[dict[str, float]]
) -> tuple[list[Array], bool, int]:
    """Improvements of each unit by item (I,), whether all units share their items, and how many items were left out.

    An item counts where both variants have it. Units share items when at least half of all items occur in every unit;
    then only these count, so that rows and columns are complete. A run with one score has one nameless item.
    """
    common = [sorted(a.keys() & b.keys()) for a, b in zip(ours, theirs)]
    if not all(common):  # no item in both: nothing to pair but the means
        return [np.array([metric.sign * (_mean(a) - _mean(b))]) for a, b in zip(ours, theirs)], True, 0
    everywhere = set(common[0]).intersection(*common[1:]) if common else set()
    shared = 2 * len(everywhere) >= len(set().union(*common))
    if shared:
        common = [sorted(everywhere)] * len(common)
        left_out = len(set().union(*ours, *theirs)) - len(everywhere)
    else:
        left_out = sum(len(a.keys() | b.keys()) - len(items) for a, b, items in zip(ours, theirs, common))
    rows = [np.array([metric.sign * (a[i] - b[i]) for i in items]) for a, b, items in zip(ours, theirs, common)]
    return rows, shared, left_out


def _as_family(
    comparisons: list[Comparison], tests: list[statistics.PairedTest], alpha: float = 0.05
) -> Iterable[Comparison]:
    """Holm's correction over all comparisons, then each finding, and the power at the correction's strictest step."""
    family = sum(not math.isnan(c.p) for c in comparisons)
    for c, test, p_family in zip(comparisons, tests, statistics.holm([c.p for c in comparisons])):
        strict = alpha / max(1, family)
        effect = c.metric.effect
        yield dataclasses.replace(
            c,
            finding=_finding(c, p_family, alpha),
            p_family=p_family,
            family=family,
            detectable=statistics.detectable_effect(test, alpha=strict),
            seeds_for_observed=statistics.seeds_needed(test, c.difference.value, alpha=strict),
            seeds_for_effect=statistics.seeds_needed(test, effect, alpha=strict) if effect else None,
        )


def _finding(c: Comparison, p_family: float, alpha: float) -> Finding:
    """A variant that lost runs cannot win: the runs that are left are its luckier ones (and so for the baseline)."""
    if math.isnan(p_family):
        return "unknown"
    if p_family > alpha:
        return "none"
    finding: Finding = "better" if c.difference.value > 0 else "worse"
    winner = c.variant if finding == "better" else c.baseline
    return "unsettled" if c.lost[winner] else finding


def _no_test(overlap: float) -> statistics.PairedTest:
    nothing = Estimate(math.nan, 0, math.nan, math.nan)
    return statistics.PairedTest(nothing, math.nan, math.nan, math.nan, 1, overlap)


def _histogram(means: Array, bins: int = 40) -> Histogram:
    counts, edges = (
        np.histogram(means, bins=bins) if statistics.has_spread(means) else (np.array([len(means)]), means[:2])
    )
    return tuple(edges.tolist()), tuple(counts.tolist())


def _mean(run: Mapping[str, float]) -> float:
    return math.fsum(run.values()) / len(run)


def _item_notes(comparisons: Iterable[Comparison]) -> list[str]:
    return [
        f"{c.variant} and {c.baseline}: {c.items_left_out} items of {c.metric.name} are not in all of their runs and "
        f"do not count."
        for c in comparisons
        if c.items_left_out
    ]


def _summary(scores: Scores, metric: Metric, variant: str) -> Summary:
    runs = scores.values[metric.name][variant]
    by_unit = {u: _mean(runs[u]) for u in scores.units if u in runs}
    if not by_unit:
        return Summary(metric.name, variant, Estimate(math.nan, 0, math.nan, math.nan), {})
    overlap = 1 / (scores.folds - 1) if scores.folds > 1 else 0.0
    mean = statistics.paired_test(list(by_unit.values()), overlap=overlap).difference
    return Summary(metric.name, variant, mean, by_unit)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
