"""What must be said about a table of scores before its comparisons: lost runs, missing runs, unequal budgets."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from nanohydra.lab.table import Scores


@dataclass(frozen=True)
class BudgetCheck:
    """What one variant used of one budget."""

    budget: str
    variant: str
    mean: float
    """Mean over runs; NaN where no run tells."""
    deviation: float
    """The largest distance of one of its runs from the baseline's mean, as a share of that."""
    held: bool
    """Was it to be held equal?"""
    equal: bool
    """Is it within the tolerance?"""


def absences(scores: Scores) -> list[str]:
    """A sentence for each variant and metric that lost runs (diverged, NaN), and for each that was never run."""
    notes = []
    for name, by_variant in scores.values.items():
        for variant, runs in by_variant.items():
            lost = scores.lost[name][variant]
            if lost:
                where = "; ".join(f"{scores.unit_name} {unit}: {reason}" for unit, reason in lost.items())
                notes.append(f"{variant} has no {name} in {len(lost)} of {len(scores.units)} runs ({where}).")
            missing = [unit for unit in scores.units if unit not in runs and unit not in lost]
            if missing:
                notes.append(
                    f"{variant} was not scored in {name} for {scores.unit_name} {', '.join(missing)}: its comparisons "
                    f"leave that out."
                )
    return notes


def check_budgets(scores: Scores, baseline: str, held_equal: Collection[str], tolerance: float) -> list[BudgetCheck]:
    """What each variant used of each budget that is known or was to be held equal, beside the baseline."""
    checks = []
    for budget in dict.fromkeys([*held_equal, *scores.budgets]):
        used = {variant: list(runs.values()) for variant, runs in scores.budgets.get(budget, {}).items()}
        reference = _mean(used.get(baseline, []))
        for variant in scores.variants:
            runs = used.get(variant, [])
            deviation = max((_distance(x, reference) for x in runs), default=math.nan)
            equal = deviation <= tolerance
            checks.append(BudgetCheck(budget, variant, _mean(runs), deviation, budget in held_equal, equal))
    return checks


def unequal_budgets(checks: Iterable[BudgetCheck], baseline: str) -> list[str]:
    """A sentence for each budget that differs. Seconds always do: they are told only where they should not."""
    notes = []
    for c in checks:
        if c.held and math.isnan(c.deviation):
            notes.append(f"{c.budget} should be equal, but the scores of {c.variant} or {baseline} do not tell it.")
        elif not c.equal and not math.isnan(c.deviation) and (c.held or c.budget != "seconds"):
            verb = "should be equal but differ" if c.held else "differ"
            notes.append(
                f"Unequal budgets: {c.budget} {verb}: a run of {c.variant} is {percent(c.deviation)} away from the "
                f"mean of {baseline}."
            )
    return notes


def percent(share: float) -> str:
    """0.1234 -> "12.3%"."""
    return f"{100 * share:.3g}%"


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _distance(x: float, reference: float) -> float:
    return abs(x - reference) / abs(reference) if reference else abs(x)
