"""The lab's statistics against known answers: python bench/lab_statistics.py [--quick] [--out FILE.json]

Coverage of the intervals, false alarms on labs that compare a thing with itself (A/A), power as predicted, equality
with scipy. `make test` runs the same functions with fewer worlds. Every figure is a share of simulated worlds; its
Monte Carlo standard error is sqrt(share (1 - share) / worlds).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nanohydra.lab import statistics as lab
from nanohydra.lab.compare import compare
from nanohydra.lab.config import Metric

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

# Scores of one run; a paired difference of an A/A lab is the difference of two draws.
SCORES: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(size=shape),
    "heavy tails (t, 3 df)": lambda rng, shape: rng.standard_t(3, size=shape),
    "skewed (exponential)": lambda rng, shape: rng.exponential(size=shape),
    "learned it or not": lambda rng, shape: (rng.random(shape) < 0.5) + 0.02 * rng.normal(size=shape),
    "shares of 20": lambda rng, shape: rng.binomial(20, 0.5, size=shape) / 20,
}
# Differences with mean 0 that are not symmetric: one variant is erratic and the other is not.
SKEWED: dict[str, Draw] = {
    "mild skew (gamma 4)": lambda rng, shape: rng.gamma(4, size=shape) - 4,
    "strong skew (exponential)": lambda rng, shape: rng.exponential(size=shape) - 1,
}


def difference_of(draw: Draw) -> Draw:
    """Differences of two runs that are drawn alike."""
    return lambda rng, shape: draw(rng, shape) - draw(rng, shape)


def coverage(draw: Draw, n: int, worlds: int, resamples: int = 1000) -> dict[str, float]:
    """Shares of worlds whose 95% interval for the mean of n differences contains 0, for each kind of interval."""
    rng = np.random.default_rng(n)
    covered = dict.fromkeys(("t", "percentile", "bca"), 0)
    for world in range(worlds):
        d = draw(rng, (n, 1))
        means = lab.bootstrap_means(d, resamples=resamples, seed=world)
        t = lab.paired_test(d).difference
        for name, (low, high) in (
            ("t", (t.low, t.high)),
            ("percentile", lab.percentile_interval(means)),
            ("bca", lab.bca_interval(means, d)),
        ):
            covered[name] += low <= 0 <= high
    return {name: count / worlds for name, count in covered.items()}


def coverage_with_items(seeds: int, items: int, worlds: int, resamples: int = 300) -> dict[str, float]:
    """As `coverage`, for yes/no items shared by all seeds: items differ in how much the variants differ on them."""
    rng = np.random.default_rng(seeds * items)
    covered = dict.fromkeys(("t", "percentile", "bca"), 0)
    for world in range(worlds):
        logits = rng.normal(size=(1, items)) + 0.3 * rng.normal(size=(2, seeds, 1))
        sides = 0.7 * rng.normal(size=(2, 1, items))  # drawn alike: over all items the variants are equal
        right = rng.random((2, seeds, items)) < 1 / (1 + np.exp(-logits - sides))
        d = right[0].astype(float) - right[1]
        means = lab.bootstrap_means(d, resamples=resamples, seed=world)
        t = lab.paired_test(d).difference
        for name, (low, high) in (
            ("t", (t.low, t.high)),
            ("percentile", lab.percentile_interval(means)),
            ("bca", lab.bca_interval(means, d)),
        ):
            covered[name] += low <= 0 <= high
    return {name: count / worlds for name, count in covered.items()}


def family_false_alarms(draw: Draw, n: int, worlds: int, variants: int = 4) -> dict[str, float]:
    """Shares of A/A labs (variants drawn alike, each against the first) that find any difference after Holm."""
    rng = np.random.default_rng(n)
    alarms = dict.fromkeys(("ours", "t alone", "sign flips"), 0)
    for _ in range(worlds):
        scores = draw(rng, (variants, n))
        differences = scores[1:] - scores[0]
        tests = [lab.paired_test(d) for d in differences]
        unbound = [2 * stats.t.sf(abs(t.difference.value) / max(t.standard_error(), 1e-12), n - 1) for t in tests]
        alarms["ours"] += min(lab.holm([t.p for t in tests])) <= 0.05
        alarms["t alone"] += min(lab.holm(unbound)) <= 0.05
        alarms["sign flips"] += min(lab.holm([lab.sign_flip_p(d) for d in differences])) <= 0.05
    return {name: count / worlds for name, count in alarms.items()}


def single_false_alarms(draw: Draw, n: int, worlds: int, resamples: int = 500) -> dict[str, float]:
    """Shares of A/A comparisons of two variants that each method would call different."""
    covered = coverage(difference_of(draw), n, worlds, resamples)
    return {name: 1 - share for name, share in covered.items()}


def lab_false_alarms(seeds: int, labs: int, items: int = 30) -> float:
    """Share of A/A labs (3 variants; a loss, and an exam with items) that say "better" or "worse" anywhere."""
    rng = np.random.default_rng(seeds)
    metrics = [Metric("val_loss", "lower"), Metric("recall", "higher")]
    alarms = 0
    for _ in range(labs):
        hard = rng.normal(size=items)
        rows: list[dict[str, Any]] = []
        for seed in range(seeds):
            luck = rng.normal(0, 0.05)
            for variant in "abc":
                rows.append({"variant": variant, "seed": seed, "val_loss": 1.5 + luck + rng.normal(0, 0.02)})
                right = rng.random(items) < 1 / (1 + np.exp(-hard - rng.normal(0, 0.3)))
                rows += [{"variant": variant, "seed": seed, "item": i, "recall": int(r)} for i, r in enumerate(right)]
        analysis = compare(rows, metrics, resamples=100)
        alarms += any(c.finding in ("better", "worse") for c in analysis.comparisons)
    return alarms / labs


def fold_false_alarms(worlds: int, points: int = 100, folds: int = 10) -> dict[str, float]:
    """A/A cross-validation: two ridge regressions on different random features, alike over all data sets.

    Shares of worlds found different by the plain t test over folds and by the corrected one.
    """
    rng = np.random.default_rng(0)
    alarms = dict.fromkeys(("plain", "corrected"), 0)
    for _ in range(worlds):
        inputs = rng.normal(size=(points, 4))
        truth = inputs @ rng.normal(size=4) + rng.normal(size=points)
        features = [np.tanh(inputs @ rng.normal(size=(4, 10))) for _ in range(2)]
        fold = rng.permutation(points) % folds
        losses = np.empty((2, folds))
        for k in range(folds):
            train, test = fold != k, fold == k
            for side, x in enumerate(features):
                weights = np.linalg.solve(x[train].T @ x[train] + np.eye(10), x[train].T @ truth[train])
                losses[side, k] = np.mean((x[test] @ weights - truth[test]) ** 2)
        d = losses[0] - losses[1]
        alarms["plain"] += lab.paired_test(d).p <= 0.05
        alarms["corrected"] += lab.paired_test(d, overlap=1 / (folds - 1)).p <= 0.05
    return {name: count / worlds for name, count in alarms.items()}


def power_found(n: int, effect: float, worlds: int) -> dict[str, float]:
    """Power as predicted from the true spread, and the share of worlds that found the effect (in units of it)."""
    rng = np.random.default_rng(n)
    nothing = lab.Estimate(0.0, n, 0.0, 0.0)
    known = lab.PairedTest(nothing, math.nan, 1.0, 0.0, 1, 0.0)
    found = sum(lab.paired_test(rng.normal(effect, 1, size=n)).p <= 0.05 for _ in range(worlds))
    return {"predicted": lab.power(known, effect), "found": found / worlds}


def distance_from_scipy(n: int, resamples: int = 2000) -> float:
    """The largest distance between our intervals and those of scipy.stats.bootstrap from the same random draws."""
    d = np.random.default_rng(n).gamma(3, size=n)
    ours = lab.bootstrap_means(d[:, None], resamples=resamples, seed=n)
    pairs = {"percentile": lab.percentile_interval(ours), "BCa": lab.bca_interval(ours, d[:, None])}
    distances = []
    for method, interval in pairs.items():
        rng = np.random.default_rng(n)
        theirs = stats.bootstrap((d,), np.mean, n_resamples=resamples, method=method, rng=rng).confidence_interval
        distances += [abs(interval[0] - theirs.low), abs(interval[1] - theirs.high)]
    return float(max(distances))


def measure(worlds: int, labs: int) -> dict[str, Any]:
    """All figures."""
    symmetric = {name: difference_of(draw) for name, draw in SCORES.items()}
    return {
        "worlds": worlds,
        "coverage": {
            name: {str(n): coverage(draw, n, worlds) for n in (20, 50)}
            for name, draw in {**symmetric, **SKEWED}.items()
        },
        "coverage_with_items": {
            f"{s} seeds, {i} items": coverage_with_items(s, i, worlds) for s, i in ((20, 50), (20, 200))
        },
        "false_alarms_of_a_comparison": {
            name: {str(n): single_false_alarms(draw, n, worlds) for n in (3, 5, 10)} for name, draw in SCORES.items()
        },
        "false_alarms_of_a_family": {
            name: {str(n): family_false_alarms(draw, n, worlds) for n in (3, 4, 5, 6, 8, 10)}
            for name, draw in SCORES.items()
        },
        "false_alarms_of_labs": {"labs": labs, **{f"{s} seeds": lab_false_alarms(s, labs) for s in (3, 5, 10)}},
        "false_alarms_of_folds": fold_false_alarms(worlds),
        "power": {f"{n} seeds, {e} sd": power_found(n, e, worlds) for n, e in ((3, 3.264), (5, 1.682), (10, 0.996))},
        "distance_from_scipy": max(distance_from_scipy(n) for n in (20, 50, 200)),
    }


def failures(figures: dict[str, Any]) -> list[str]:
    """What is outside of what is promised. Monte Carlo error is allowed for: 3 standard errors above 5%."""
    ceiling = 0.05 + 3 * math.sqrt(0.05 * 0.95 / figures["worlds"])
    wrong = []
    covers = {**figures["coverage"], "items": figures["coverage_with_items"]}
    for name, by_n in covers.items():
        for n, shares in by_n.items():
            if name != "strong skew (exponential)" and not 0.93 <= shares["t"] <= 0.97:
                wrong.append(f"coverage, {name}, {n}: {shares['t']}")
    for name, by_n in figures["false_alarms_of_a_family"].items():
        wrong += [f"family, {name}, {n} seeds: {s['ours']}" for n, s in by_n.items() if s["ours"] > ceiling]
    labs = figures["false_alarms_of_labs"]
    wrong += [f"labs, {n}: {share}" for n, share in labs.items() if n != "labs" and share > 0.05]
    if figures["false_alarms_of_folds"]["corrected"] > ceiling:
        wrong.append(f"folds: {figures['false_alarms_of_folds']}")
    for name, p in figures["power"].items():
        if abs(p["predicted"] - p["found"]) > 3 * math.sqrt(0.25 / figures["worlds"]):
            wrong.append(f"power, {name}: {p}")
    if figures["distance_from_scipy"] > 1e-9:
        wrong.append(f"distance from scipy: {figures['distance_from_scipy']}")
    return wrong


def main() -> int:
    """Measures, prints JSON, and exits with 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer worlds: about a minute")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    args = parser.parse_args()
    start = time.monotonic()
    figures = measure(worlds=400 if args.quick else 4000, labs=200)
    figures |= {"failures": failures(figures), "seconds": round(time.monotonic() - start, 1)}
    text = json.dumps(figures, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
