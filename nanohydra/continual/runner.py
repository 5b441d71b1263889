"""Running an experiment: the bases first, then every strategy with every seed, each a resumable process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nanohydra.continual.plan import RECIPE, Plan
from nanohydra.continual.strategy import read_settings
from nanohydra.errors import UserError
from nanohydra.lab.runner import run_lab


def run_experiment(plan: Plan, out: Path, *, jobs: int | None = None, say: Callable[[str], None] = print) -> None:
    """Runs what is missing of the experiment in `out`. Killed, it goes on where it was when called again: finished jobs
    have a result and are not repeated, unfinished ones go on after their last finished stage.

    Raises UserError, before anything is trained, for settings that cannot be; and, after all others are finished, when
    some jobs failed.
    """
    recipe = plan.recipe
    for row, settings in recipe.strategies.items():
        read_settings(row, settings)
    if (out / RECIPE).exists() and (other := Plan.load(out / RECIPE).recipe.name) != recipe.name:
        raise UserError(f"{out} holds another experiment, {other}. Choose another --out.")
    plan.save(out)
    for lab in (*([plan.bases_lab(out)] if recipe.base.recipe else []), plan.strategies_lab(out)):
        run_lab(lab.spec, lab.path, jobs=jobs, say=say)
