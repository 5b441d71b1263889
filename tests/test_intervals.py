"""Intervals of single results: known values, invariants, and coverage by simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from nanohydra.evals.intervals import Estimate, bootstrap_mean, bootstrap_ratio, wilson


@given(st.integers(1, 2000), st.data())
def test_wilson_equals_scipy_and_contains_its_value(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    ours = wilson(successes, n)
    theirs = binomtest(successes, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= ours.low <= ours.value <= ours.high <= 1
    assert ours.n == n


def test_nothing_observed_is_unknown_and_valid_json() -> None:
    assert wilson(0, 0).to_dict() == {"value": None, "n": 0, "low": 0.0, "high": 1.0}
    assert bootstrap_mean([]).to_dict() == {"value": None, "n": 0, "low": None, "high": None}
    one = bootstrap_mean([2.5])
    assert one.value == 2.5
    assert math.isnan(one.low)
    json.loads(json.dumps(one.to_dict(), allow_nan=False))


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(5, 4)
    with pytest.raises(ValueError, match="one numerator and one denominator"):
        bootstrap_ratio([1.0, 2.0], [1.0])


def test_ratio_weighs_documents_by_their_size() -> None:
    bits, size = [10.0, 900.0, 40.0], [10.0, 300.0, 10.0]
    estimate = bootstrap_ratio(bits, size)
    assert estimate.value == pytest.approx(950 / 320)
    assert estimate.low <= estimate.value <= estimate.high
    # Equal denominators: the ratio is the mean of the ratios.
    assert bootstrap_ratio([2.0, 4.0, 9.0], [2.0, 2.0, 2.0]) == bootstrap_mean([1.0, 2.0, 4.5])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.floats(0.01, 100), st.floats(-100, 100))
def test_mean_interval_follows_shift_and_scale(values: list[float], scale: float, shift: float) -> None:
    plain = bootstrap_mean(values, resamples=200)
    moved = bootstrap_mean([scale * v + shift for v in values], resamples=200)
    expected = [scale * x + shift for x in (plain.value, plain.low, plain.high)]
    assert [moved.value, moved.low, moved.high] == pytest.approx(expected, abs=1e-6)


def test_same_seed_same_interval_and_no_spread_no_width() -> None:
    values = np.random.default_rng(1).normal(size=40)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    assert bootstrap_mean([7.0] * 5) == Estimate(7.0, 5, 7.0, 7.0)


@pytest.mark.parametrize("n", [8, 40])
def test_ratio_interval_covers_the_truth(n: int) -> None:
    """Bits per byte over documents of very different sizes: the 95% interval covers in about 95% of 600 worlds."""
    rng = np.random.default_rng(n)
    covered = 0
    for world in range(600):
        size = rng.uniform(100, 1000, size=n)
        bits = size * rng.normal(1.5, 0.3, size=n)
        estimate = bootstrap_ratio(bits, size, resamples=400, seed=world)
        covered += estimate.low <= 1.5 <= estimate.high
    assert 0.92 <= covered / 600 <= 0.975
