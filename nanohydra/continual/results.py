"""The finished runs of an experiment: their matrices, what they kept and how long they took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nanohydra.continual.config import ContinualRecipe
from nanohydra.continual.measures import LOWER
from nanohydra.continual.metrics import Matrix
from nanohydra.continual.plan import RECIPE, Plan
from nanohydra.errors import UserError
from nanohydra.evals.intervals import Estimate
from nanohydra.lab.statistics import paired_test


@dataclass(frozen=True)
class Run:
    """One row of the table with one seed."""

    row: str
    seed: int
    matrices: Mapping[str, Matrix]
    """By metric, over the domains that have it."""
    stored: Sequence[Mapping[str, int]]
    """After each stage, bytes by what they are for."""
    stage_seconds: Sequence[float]
    cpu_seconds: Sequence[float]

    @property
    def stages(self) -> int:
        """Stages after the base's."""
        return len(self.stored) - 1

    def bytes_per_domain(self) -> float:
        """What is kept at the end, over the number of new domains."""
        return sum(self.stored[-1].values()) / self.stages

    def seconds_per_domain(self, cpu: bool = False) -> float:
        """Time of training and of what goes with it (the base's part in it included), over the new domains."""
        return sum(self.cpu_seconds if cpu else self.stage_seconds) / self.stages


@dataclass(frozen=True)
class Results:
    """All that is finished of an experiment."""

    recipe: ContinualRecipe
    runs: Sequence[Run]
    diverged: Sequence[tuple[str, int, str]]
    """Row, seed and reason."""
    missing: Sequence[str]
    """Runs that have no result yet."""
    environments: Sequence[Path] = field(default=())
    """The environment.json of every run."""

    @property
    def rows(self) -> list[str]:
        """The rows in the recipe's order."""
        return list(dict.fromkeys(run.row for run in self.runs))

    @property
    def metrics(self) -> list[str]:
        """The metrics that were measured, the recipe's own first."""
        found = dict.fromkeys(metric for run in self.runs for metric in run.matrices)
        return sorted(found, key=lambda metric: metric != self.recipe.metric)

    def of(self, row: str) -> dict[int, Run]:
        """A row's runs by seed."""
        return {run.seed: run for run in self.runs if run.row == row}

    def reference(self, strategy: str) -> dict[int, Run]:
        """The runs, by seed, of the row that is this strategy (alone, joint); none where the recipe has no such row."""
        for row, settings in self.recipe.strategies.items():
            if settings.get("strategy", row) == strategy:
                return self.of(row)
        return {}

    def over_seeds(self, row: str, measure: Any) -> Estimate:
        """The mean over seeds of `measure(run)`, with its t interval; seeds where it is NaN are left out."""
        return mean(measure(run) for run in self.of(row).values())


def mean(values: Iterable[float]) -> Estimate:
    """Mean of one number a seed, with the 95% t interval for new seeds."""
    kept = [value for value in values if not math.isnan(value)]
    return paired_test(kept).difference if kept else Estimate(math.nan, 0, math.nan, math.nan)


def read_results(folder: Path) -> Results:
    """Reads what an experiment has so far. Raises UserError where nothing is finished."""
    path = Path(folder) / RECIPE
    if not path.is_file():
        raise UserError(f"{folder} holds no experiment (no {RECIPE}). Name what nanohydra continual run wrote.")
    plan = Plan.load(path)
    recipe = plan.recipe
    runs: list[Run] = []
    diverged, missing, environments = [], [], []
    for job in plan.strategies_lab(Path(folder)).jobs():
        result = job.result
        if result is None:
            missing.append(f"{job.variant} seed {job.seed}")
        elif result["status"] != "finished":
            diverged.append((job.variant, job.seed, str(result.get("reason", "no reason given"))))
        else:
            environments.append(job.folder / "environment.json")
            runs += [_run(job.variant, job.seed, view, result) for view in result["values"]]
    if not runs:
        raise UserError(f"Nothing is finished in {folder}. Run nanohydra continual run again: it goes on where it was.")
    order = list(recipe.strategies)
    runs.sort(key=lambda run: (order.index(_row_of(run.row, order)), run.seed))
    return Results(recipe, runs, diverged, missing, environments)


def _row_of(row: str, order: Sequence[str]) -> str:
    return row.split(" ")[0] if row not in order else row


def _run(row: str, seed: int, view: str, result: Mapping[str, Any]) -> Run:
    values: Mapping[str, Mapping[str, list[float]]] = result["values"][view]
    matrices = {}
    for metric in dict.fromkeys(name for found in values.values() for name in found):
        columns = {domain: found[metric] for domain, found in values.items() if metric in found}
        trained = tuple(stage for stage, domain in enumerate(values) if domain in columns)
        matrices[metric] = Matrix(np.array(list(columns.values())).T, trained, tuple(columns), metric in LOWER)
    name = f"{row} {view}" if view else row
    return Run(name, seed, matrices, result["stored"], result["stage_seconds"], result["cpu_seconds"])
