"""Which jobs an experiment has: a lab of bases, one a seed, and a lab of strategies over them. No torch here.

OUT/recipe.yaml         the experiment
OUT/bases/              a lab with one variant: the base of each seed
OUT/strategies/         a lab whose variants are the rows of the recipe's strategies
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from nanohydra.continual.config import ContinualRecipe
from nanohydra.lab.config import LabSpec, Metric
from nanohydra.lab.runs import LabFolder

NOT_OF_THE_RUNS = ("strategies", "seeds", "name", "question", "metric", "baseline", "compared")
"""What a run's outcome does not depend on: changing it repeats nothing."""


def bases_lab(recipe: ContinualRecipe, out: Path, source: str = "") -> LabFolder:
    """The trainings of the base; only for a recipe that trains one."""
    assert recipe.base.recipe is not None
    base = {"base": dataclasses.asdict(recipe.base.recipe)}
    return LabFolder(out / "bases", _spec(recipe, {"base": {}}, base, "train_base", source))


def strategies_lab(recipe: ContinualRecipe, out: Path, source: str = "") -> LabFolder:
    """The rows of the table, each led through the sequence."""
    experiment = {k: v for k, v in recipe.to_dict().items() if k not in NOT_OF_THE_RUNS}
    rows = {row: {"row": row, "settings": settings} for row, settings in recipe.strategies.items()}
    base = {"experiment": {**experiment, "name": "experiment"}}
    return LabFolder(out / "strategies", _spec(recipe, rows, base, "run_strategy", source))


def base_folder(recipe: ContinualRecipe, out: Path, seed: int) -> Path | str:
    """The model folder (or the name) of the base that the strategies of a seed start from."""
    if recipe.base.path is not None:
        return recipe.base.path
    return bases_lab(recipe, out).job("base", {}, seed).folder / "base"


def commands(recipe_file: Path, out: Path) -> list[str]:
    """What to type to have the experiment again."""
    return [f"nanohydra continual run {shlex.quote(str(recipe_file))} --out {shlex.quote(out.name)}"]


def _spec(recipe: ContinualRecipe, variants: dict[str, Any], base: dict[str, Any], execute: str, source: str) -> LabSpec:
    return LabSpec(
        name=recipe.name,
        question=recipe.question,
        base=base,
        variants=variants,
        seeds=recipe.seeds,
        metrics=(Metric(recipe.metric, "lower" if recipe.metric == "loss" else "higher"),),
        baseline=next(iter(variants)),
        execute=f"nanohydra.continual.stages:{execute}",
        source=source,
    )
