"""What the evidence supports, in plain words."""

from __future__ import annotations

import math

from nanohydra.lab.checks import percent
from nanohydra.lab.compare import Analysis, Comparison
from nanohydra.lab.statistics import fewest_seeds, spread_uncertainty

FEW = 5
"""Below this many seeds the report says how little they can show."""


def headline(analysis: Analysis) -> str:
    """One or two sentences over all comparisons."""
    by_finding: dict[str, list[str]] = {}
    for c in analysis.comparisons:
        by_finding.setdefault(c.finding, []).append(f"{c.variant} against {c.baseline} in {c.metric.name}")
    words = {
        "better": "Better beyond chance",
        "worse": "Worse beyond chance",
        "none": "No evidence of a difference",
        "unsettled": "Not settled, since runs were lost",
        "unknown": "Not to be told, with too few runs",
    }
    parts = [f"{word}: {'; '.join(by_finding[finding])}." for finding, word in words.items() if finding in by_finding]
    if any(b.held and not b.equal for b in analysis.budgets):
        parts.append("What should be held equal was not: read the checks first.")
    return " ".join(parts)


def sentence(c: Comparison, unit: str = "seed") -> str:
    """The verdict on one comparison."""
    name = c.metric.name
    if not c.units:
        lost = [f"{v} gave no score in any run ({next(iter(c.lost[v].values()))})" for v in c.lost if c.lost[v]]
        why = "; ".join(lost) or f"they have no {unit} in common"
        return f"{c.variant} and {c.baseline} cannot be compared in {name}: {why}."
    amount = f"{number(abs(c.difference.value))} {'better' if c.difference.value >= 0 else 'worse'}"
    if math.isfinite(c.relative):
        amount += f" ({percent(abs(c.relative))})"
    if len(c.units) == 1:
        text = f"{c.variant} is {amount} than {c.baseline} in {name} in the only {unit} that both have: "
        if math.isfinite(c.difference.low):
            text += f"{interval(c)} over its items, for this one pair of runs; "
        return text + "one run of each cannot tell a difference from luck."
    if not any(c.by_unit):
        return (
            f"No difference at all: {c.variant} and {c.baseline} have the very same {name} in all {len(c.units)} "
            f"{unit}s. Does the change take effect?"
        )
    evidence = f"{interval(c)}, {p_value(c.p_family)}{_family(c)}"
    if c.finding == "none":
        text = f"No evidence of a difference in {name} between {c.variant} and {c.baseline}: {c.variant} is {amount} "
        text += f"on average, {evidence}."
        if c.p <= 0.05 < c.p_family:
            text += f" Alone it would have counted ({p_value(c.p)}), but not as one of {c.family} comparisons."
    elif c.finding == "unsettled":
        winner, loser = (c.variant, c.baseline) if c.difference.value > 0 else (c.baseline, c.variant)
        text = f"{winner} scores better than {loser} in {name} where both have scores ({amount}, {evidence}), but "
        text += f"{winner} lost {_runs(len(c.lost[winner]))}, and what is left may be its luckier ones: not settled."
    else:
        text = f"{c.variant} is {c.finding} than {c.baseline} in {name}: {amount}, {evidence}."
    return text + _matters(c) + _lost(c)


def power_sentence(c: Comparison, unit: str = "seed") -> str:
    """What these seeds could have shown, and what it would take to show more; "" where no test was made."""
    n = len(c.units)
    if n < 2 or not any(c.by_unit):
        return ""
    if math.isnan(c.detectable):
        return (
            f"All {n} {unit}s differ by the same amount, so their spread is unknown; an exact sign-flip test decides, "
            f"which needs at least 6 {unit}s to speak at all."
        )
    if math.isinf(c.detectable):
        text = f"With {n} {unit}s no difference, however large, can pass "
        text += f"the correction over {c.family} comparisons" if c.family > 1 else "the test"
        return (
            f"{text}: runs that learn a thing or fail to could fall so by chance. At least "
            f"{fewest_seeds(c.family)} {unit}s are needed."
        )
    text = f"With {n} {unit}s only a difference above {number(c.detectable)} would be seen 8 times in 10"
    text += f" (at the strictest step of the correction over {c.family})." if c.family > 1 else "."
    if n < FEW and c.spread > 0:
        low, high = spread_uncertainty(n)
        text += (
            f" {n} {unit}s show little: that is {number(c.detectable / c.spread)} times the spread between {unit}s, "
            f"and the true spread may be {low:.2g} to {high:.2g} times the one measured."
        )
    if unit == "fold":
        return text + " Folds share training data; the test is corrected for it (Nadeau and Bengio 2003)."
    if c.finding == "none" and c.difference.value != 0:
        text += f" {_needed(number(abs(c.difference.value)), c.seeds_for_observed, 'as large as the one observed')}"
    if c.metric.effect:
        text += f" {_needed(number(c.metric.effect), c.seeds_for_effect, 'that matters to you')}"
    return text


def interval(c: Comparison) -> str:
    """ "95% interval 0.1 better to 0.3 better"; the signs as words, since lower may be better."""
    low, high = sorted((c.difference.low, c.difference.high), key=abs)
    if low * high > 0:
        return f"95% interval {number(abs(low))} to {number(abs(high))}"
    return f"95% interval from {number(abs(c.difference.low))} worse to {number(abs(c.difference.high))} better"


def number(x: float) -> str:
    """Four digits, the same everywhere, so that a text can be checked against the report."""
    return "unknown" if not math.isfinite(x) else f"{x:.4g}"


def p_value(p: float) -> str:
    """Two digits; very small ones as a bound."""
    return "p unknown" if math.isnan(p) else "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _family(c: Comparison) -> str:
    return f" after Holm correction over {c.family} comparisons" if c.family > 1 else ""


def _needed(size: str, seeds: int | None, what: str) -> str:
    if seeds is None:
        return f"More seeds alone would not show a true difference of {size}, {what}: use more evaluation items."
    return f"A true difference of {size}, {what}, needs {seeds} seeds."


def _matters(c: Comparison) -> str:
    """Beside the test: could the difference be as large as what matters?"""
    effect = c.metric.effect
    if effect and max(abs(c.difference.low), abs(c.difference.high)) < effect:
        return f" Either way it is smaller than the {number(effect)} that matters to you."
    return ""


def _lost(c: Comparison) -> str:
    if c.finding == "unsettled":
        return ""
    told = [f"{v} lost {_runs(len(runs))} ({next(iter(runs.values()))})" for v, runs in c.lost.items() if runs]
    return f" Compared where both have scores: {'; '.join(told)}." if told else ""


def _runs(n: int) -> str:
    return "1 run" if n == 1 else f"{n} runs"
