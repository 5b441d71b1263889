"""Which jobs an experiment has: a lab of bases, one a seed, and a lab of strategies over them. No torch here.

OUT/recipe.yaml         the experiment
OUT/bases/              a lab with one variant: the base of each seed
OUT/strategies/         a lab whose variants are the rows of the recipe's strategies

What a job is told, and what its folder is named after, is the recipe as it was written, without defaults: so a later
version with one more setting finds the finished jobs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nanohydra.continual.config import ContinualRecipe
from nanohydra.files import write_text
from nanohydra.jobs.config import read_recipe
from nanohydra.lab.config import LabSpec, Metric
from nanohydra.lab.runs import LabFolder

NOT_OF_THE_RUNS = ("strategies", "seeds", "name", "question", "metric", "baseline", "compared")
"""What a run's outcome does not depend on: changing it repeats nothing."""

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Plan:
    """A recipe with its words."""

    values: Mapping[str, Any]
    """As in the YAML file."""
    recipe: ContinualRecipe

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Plan:
        """Checks the values. Raises UserError where they are no recipe."""
        return cls(values, ContinualRecipe.from_dict(values))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Reads a YAML file."""
        return cls.of(read_recipe(path))

    def save(self, out: Path) -> None:
        """Keeps the recipe in the experiment's folder."""
        write_text(out / RECIPE, yaml.safe_dump(dict(self.values), sort_keys=False, allow_unicode=True))

    def bases_lab(self, out: Path) -> LabFolder:
        """The trainings of the base; only for a recipe that trains one."""
        base = {"base": self.values["base"]["recipe"]}
        return LabFolder(out / "bases", self._spec({"base": {}}, base, "train_base"))

    def strategies_lab(self, out: Path) -> LabFolder:
        """The rows of the table, each led through the sequence."""
        experiment = {key: value for key, value in self.values.items() if key not in NOT_OF_THE_RUNS}
        rows = {row: {"row": row, "settings": settings or {}} for row, settings in self.values["strategies"].items()}
        return LabFolder(out / "strategies", self._spec(rows, {"experiment": experiment}, "run_strategy"))

    def base_folder(self, out: Path, seed: int) -> Path | str:
        """The model folder (or the name) of the base that the strategies of a seed start from."""
        if self.recipe.base.path is not None:
            return self.recipe.base.path
        return self.bases_lab(out).job("base", {}, seed).folder / "base"

    def _spec(self, variants: dict[str, Any], base: dict[str, Any], execute: str) -> LabSpec:
        recipe = self.recipe
        return LabSpec(
            name=recipe.name,
            question=recipe.question,
            base=base,
            variants=variants,
            seeds=recipe.seeds,
            metrics=(Metric(recipe.metric, "lower" if recipe.metric == "loss" else "higher"),),
            baseline=next(iter(variants)),
            execute=f"nanohydra.continual.stages:{execute}",
        )
