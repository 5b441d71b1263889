"""Running an experiment: the bases first, then every strategy with every seed, each a resumable process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from nanohydra.continual.config import ContinualRecipe
from nanohydra.continual.plan import bases_lab, strategies_lab
from nanohydra.errors import UserError
from nanohydra.files import write_text
from nanohydra.lab.runner import run_lab

RECIPE = "recipe.yaml"


def run_experiment(
    recipe: ContinualRecipe, out: Path, *, jobs: int | None = None, say: Callable[[str], None] = print
) -> None:
    """Runs what is missing of the experiment in `out`. Killed, it goes on where it was when called again: finished jobs
    have a result and are not repeated, unfinished ones go on after their last finished stage.

    Raises UserError, before anything is trained, for settings that cannot be; and, after all others are finished, when
    some jobs failed.
    """
    from nanohydra.continual.strategy import read_settings

    for row, settings in recipe.strategies.items():
        read_settings(row, settings)
    known = out / RECIPE
    if known.exists() and ContinualRecipe.load(known).name != recipe.name:
        raise UserError(f"{out} holds another experiment, {ContinualRecipe.load(known).name}. Choose another --out.")
    write_text(known, yaml.safe_dump(plain(recipe.to_dict()), sort_keys=False, allow_unicode=True))
    if recipe.base.recipe is not None:
        lab = bases_lab(recipe, out)
        run_lab(lab.spec, lab.path, jobs=jobs, say=say)
    lab = strategies_lab(recipe, out)
    run_lab(lab.spec, lab.path, jobs=jobs, say=say)


def plain(value: object) -> object:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
