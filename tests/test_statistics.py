"""The lab's statistics: equal to scipy and to textbook values, invariant where they must be, calibrated by simulation.

The simulations are those of bench/lab_statistics.py with fewer worlds.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nanohydra.evals.intervals import Estimate
from nanohydra.lab import statistics as lab

BENCH = Path(__file__).parent.parent / "bench" / "lab_statistics.py"
finite = st.floats(-100, 100).map(lambda x: round(x, 3))


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lab_statistics", BENCH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def known(n: int, spread: float = 1.0) -> lab.PairedTest:
    """A test of n seeds whose spread is known to be `spread`."""
    return lab.PairedTest(Estimate(0.0, n, 0.0, 0.0), math.nan, spread**2, 0.0, 1, 0.0)


# ---------------------------------------------------------------- equalities


@given(st.lists(finite, min_size=2, max_size=40))
def test_without_items_it_is_the_paired_t_test(d: list[float]) -> None:
    ours = lab.paired_test(d)
    if not lab.has_spread(np.array(d)):
        assert ours.p == lab.sign_flip_p(d)
        return
    theirs = stats.ttest_1samp(d, 0)
    interval = theirs.confidence_interval()
    assert (ours.difference.low, ours.difference.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert ours.p == pytest.approx(max(theirs.pvalue, lab.least_p(len(d))), abs=1e-6)


@pytest.mark.parametrize("n", [15, 20, 60])
def test_bootstrap_equals_scipy(bench: ModuleType, n: int) -> None:
    """The same random draws give the same percentile and BCa intervals. (For very few values scipy's own rounding
    decides which bootstrap means tie with the mean.)"""
    assert bench.distance_from_scipy(n) < 1e-12


def test_sign_flips_equal_scipy_and_enumeration() -> None:
    d = np.array([0.3, -0.1, 0.25, 0.4, 0.05, 0.2])
    theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert lab.sign_flip_p(d) == pytest.approx(theirs.pvalue)
    assert lab.sign_flip_p([1.0, 1.0, 1.0]) == 0.25
    many = np.random.default_rng(0).normal(0.3, 1, size=30)
    assert lab.sign_flip_p(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)


def test_textbook_values() -> None:
    # Holm's step-down by hand: 4 p1, 3 p2, 2 p3, 1 p4, never decreasing.
    assert lab.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Pairs that a t test needs for power 0.8 at d = 0.5, 0.2, 0.8 (G*Power 3; Cohen 1988, table 2.4.1).
    assert [lab.seeds_needed(known(34), d) for d in (0.5, 0.2, 0.8)] == [34, 199, 15]
    assert lab.power(known(34), 0.5) == pytest.approx(0.8078, abs=1e-4)
    # Hedges' correction for 9 degrees of freedom is 0.9139 (Hedges 1981, table 1: 0.9228 for 10, 0.9139 for 9).
    d = np.random.default_rng(0).normal(1, 1, size=10)
    assert lab.hedges_g(d) / (d.mean() / d.std(ddof=1)) == pytest.approx(0.9139, abs=2e-4)
    # The 95% interval of a standard deviation from 3 values: 0.52 to 6.28 times it.
    assert lab.spread_uncertainty(3) == pytest.approx((0.5207, 6.2847), abs=1e-3)


@given(st.integers(4, 60), st.floats(0, 3), st.sampled_from([0.05, 0.01]))
def test_power_is_that_of_the_noncentral_t(n: int, effect: float, alpha: float) -> None:
    if alpha < lab.least_p(n):
        return
    critical, shift = stats.t.isf(alpha / 2, n - 1), effect * math.sqrt(n)
    exact = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    if math.isfinite(exact):
        assert lab.power(known(n), effect, alpha=alpha) == pytest.approx(exact, abs=2e-3)


@given(st.integers(3, 30), st.floats(0.1, 10))
@settings(max_examples=30)
def test_detectable_effect_and_seeds_needed_are_inverse(n: int, spread: float) -> None:
    effect = lab.detectable_effect(known(n, spread))
    assert lab.power(known(n, spread), effect) == pytest.approx(0.8, abs=1e-6)
    assert lab.seeds_needed(known(n, spread), 1.0001 * effect) == n
    assert lab.seeds_needed(known(n, spread), 0.9999 * effect) == n + 1


# ---------------------------------------------------------------- invariants


matrices = st.integers(2, 6).flatmap(
    lambda items: st.lists(st.lists(finite, min_size=items, max_size=items), min_size=2, max_size=8)
)


@given(matrices, st.floats(0.1, 10))
@settings(max_examples=50)
def test_items_never_narrow_the_interval_and_units_do_not_matter(d: list[list[float]], scale: float) -> None:
    matrix = np.array(d)
    with_items, without = lab.paired_test(matrix), lab.paired_test(matrix.mean(axis=1))
    if lab.has_spread(matrix.mean(axis=1)):
        assert with_items.standard_error() >= without.standard_error() * (1 - 1e-9)
    swapped = lab.paired_test(-scale * matrix)
    assert swapped.difference.value == pytest.approx(-scale * with_items.difference.value)
    assert swapped.difference.low == pytest.approx(-scale * with_items.difference.high, abs=1e-5)
    assert swapped.p == pytest.approx(with_items.p, abs=1e-6)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_monotone_and_between_p_and_bonferroni(p_values: list[float]) -> None:
    adjusted = lab.holm(p_values)
    assert all(p <= a <= min(1, len(p_values) * p) + 1e-12 for p, a in zip(p_values, adjusted))
    ranked = [a for _, a in sorted(zip(p_values, adjusted))]
    assert ranked == sorted(ranked)
    with_gap = lab.holm([*p_values, math.nan])
    assert with_gap[:-1] == adjusted
    assert math.isnan(with_gap[-1])


def test_crossed_and_nested_bootstrap_have_the_right_variance() -> None:
    """Crossed (Owen 2007): s/S + i/I + 3 e/(S I) about; nested: the variance of one seed's mean plus that within."""
    rng = np.random.default_rng(3)
    seeds, items = 40, 60
    d = rng.normal(size=(seeds, 1)) + 2 * rng.normal(size=(1, items)) + rng.normal(size=(seeds, items))
    crossed = lab.bootstrap_means(d, resamples=20_000, seed=1)
    expected = np.var(d.mean(axis=1)) / seeds + np.var(d.mean(axis=0)) / items
    residual = np.var(d - d.mean(axis=1, keepdims=True) - d.mean(axis=0)) / (seeds * items)
    assert crossed.var() == pytest.approx(expected + residual, rel=0.05)
    assert crossed.mean() == pytest.approx(d.mean(), abs=0.02)
    ragged = [row[: 20 + s] for s, row in enumerate(d)]
    nested = lab.bootstrap_means(ragged, resamples=20_000, seed=1)
    within = np.mean([np.var(row) / len(row) for row in ragged]) / seeds
    assert nested.var() == pytest.approx(np.var([row.mean() for row in ragged]) / seeds + within, rel=0.05)
    assert nested.mean() == pytest.approx(np.mean([row.mean() for row in ragged]), abs=0.02)


def test_memory_is_bounded_by_chunks_that_change_nothing() -> None:
    """So many items that resamples are drawn in several chunks: still one sample of means."""
    d = np.random.default_rng(0).normal(size=(3, 30_000)) + 1.0
    means = lab.bootstrap_means(d, resamples=300, seed=0)
    assert means.shape == (300,)
    assert means.mean() == pytest.approx(d.mean(), abs=0.01)


def test_where_there_is_nothing_to_know() -> None:
    one = lab.paired_test([0.5])
    assert one.difference.value == 0.5
    assert math.isnan(one.p)
    assert math.isnan(lab.detectable_effect(one))
    assert lab.seeds_needed(one, 0.1) is None
    same = lab.paired_test([0.1 + 0.2, 0.3, 0.3, 0.3])  # equal but for rounding errors: no t test
    assert same.p == lab.sign_flip_p([0.3] * 4) == 0.125
    assert math.isnan(lab.detectable_effect(same))
    assert math.isnan(lab.hedges_g([0.3, 0.3, 0.3]))
    assert math.isnan(lab.hedges_g([0.1, 0.3]))


def test_few_seeds_cannot_pass_a_correction_however_large_the_difference() -> None:
    clear = [1.0, 1.0001, 0.9999]
    assert lab.paired_test(clear).p == lab.least_p(3) == 2 / 64
    assert lab.holm([lab.paired_test(clear).p] * 2) == pytest.approx([4 / 64] * 2)
    assert math.isinf(lab.detectable_effect(known(3), alpha=0.05 / 2))
    assert lab.seeds_needed(known(3), 1000.0, alpha=0.05 / 2) == 4


def test_more_seeds_do_not_help_where_items_are_too_few() -> None:
    rng = np.random.default_rng(0)
    d = 0.05 + rng.normal(size=(1, 10)) + 0.1 * rng.normal(size=(5, 10))  # ten items that disagree
    test = lab.paired_test(d)
    assert test.item_variance > 10 * test.seed_variance / 5
    assert lab.seeds_needed(test, 0.1) is None
    assert lab.seeds_needed(test, 10.0) is not None


def test_probability_better_counts_ties_half() -> None:
    assert lab.probability_better([1.0, -1.0, 0.0, 2.0]).value == 0.625


def test_overlapping_folds_widen_the_interval() -> None:
    d = np.random.default_rng(0).normal(0.5, 1, size=10)
    plain, corrected = lab.paired_test(d), lab.paired_test(d, overlap=1 / 9)
    ratio = corrected.standard_error() / plain.standard_error()
    assert ratio == pytest.approx(math.sqrt((1 / 10 + 1 / 9) * 10))
    assert corrected.p > plain.p


# ---------------------------------------------------------------- calibration (bench/lab_statistics.py, fewer worlds)


@pytest.mark.parametrize("kind", ["normal", "heavy tails (t, 3 df)", "learned it or not"])
def test_95_percent_intervals_cover_95_percent(bench: ModuleType, kind: str) -> None:
    covered = bench.coverage(bench.difference_of(bench.SCORES[kind]), 20, worlds=1200, resamples=200)
    assert 0.93 <= covered["t"] <= 0.97
    assert 0.88 <= covered["percentile"] <= 0.97
    assert 0.88 <= covered["bca"] <= 0.97


def test_95_percent_intervals_cover_with_items(bench: ModuleType) -> None:
    assert 0.93 <= bench.coverage_with_items(20, 50, worlds=800, resamples=50)["t"] <= 0.97


@pytest.mark.parametrize("seeds", [5, 10])
def test_labs_of_one_thing_against_itself_seldom_find_anything(bench: ModuleType, seeds: int) -> None:
    """200 A/A labs through the whole analysis: at most 5% say better or worse of anything."""
    assert bench.lab_false_alarms(seeds, labs=200, items=15) <= 0.05


@pytest.mark.parametrize("kind", ["normal", "learned it or not"])
@pytest.mark.parametrize("seeds", [3, 4, 6, 10])
def test_families_keep_their_error_rate(bench: ModuleType, kind: str, seeds: int) -> None:
    """At most 5%, and two standard errors of 1000 worlds."""
    assert bench.family_false_alarms(bench.SCORES[kind], seeds, worlds=1000)["ours"] <= 0.064


def test_percentile_intervals_of_three_seeds_would_not(bench: ModuleType) -> None:
    """Why t decides and the bootstrap does not."""
    alarms = bench.single_false_alarms(bench.SCORES["normal"], 3, worlds=400, resamples=200)
    assert alarms["t"] <= 0.075
    assert alarms["percentile"] > 0.15


def test_folds_need_their_correction(bench: ModuleType) -> None:
    alarms = bench.fold_false_alarms(worlds=300)
    assert alarms["corrected"] <= 0.08 < alarms["plain"]


def test_power_is_as_predicted(bench: ModuleType) -> None:
    found = bench.power_found(5, 1.682, worlds=1500)
    assert found["predicted"] == pytest.approx(0.8, abs=1e-3)
    assert found["found"] == pytest.approx(0.8, abs=0.035)


def test_the_benchmark_hides_no_module_of_the_standard_library() -> None:
    """Scripts in bench/ have that folder first in their search path, and torch imports `statistics`."""
    folder = str(BENCH.parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); from statistics import median; print(median([1, 2, 9]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


def test_every_pair_of_sign_patterns_is_counted_once() -> None:
    d = [0.2, 0.5, -0.1, 0.3]
    sums = [abs(sum(s * x for s, x in zip(signs, d))) for signs in itertools.product([1, -1], repeat=4)]
    assert lab.sign_flip_p(d) == sum(s >= abs(sum(d)) - 1e-12 for s in sums) / 16
