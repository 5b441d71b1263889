"""What a lab is told: dataclasses only, so that the command line can read them at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["lower", "higher"]
Budget = Literal["parameters", "flops", "tokens", "seconds"]

BUDGETS: tuple[Budget, ...] = ("parameters", "flops", "tokens", "seconds")
"""What may be held equal between variants; runs report these beside their metrics."""

EXECUTE = "nanohydra.jobs.train:execute"
"""What trains one recipe unless a lab names another function (`module:function`)."""


@dataclass(frozen=True)
class Metric:
    """A number that is compared."""

    name: str
    """Its name in a run's result, or its column in a table of scores."""
    direction: Direction
    """Which values are better."""
    effect: float | None = None
    """The smallest difference that would matter to you: the report says how many seeds it needs to be seen."""

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is."""
        return 1 if self.direction == "higher" else -1


@dataclass(frozen=True)
class Tuning:
    """A small grid for each variant, tried on seeds of its own before the lab's seeds are run."""

    metric: str
    """The metric that chooses: best mean over the tuning seeds."""
    seeds: tuple[int, ...]
    """Seeds of the trials; none may be a seed of the lab, or the winner would be flattered by its luck."""
    grids: Mapping[str, tuple[Mapping[str, Any], ...]]
    """For each variant its trials, each a config patch. All variants have the same number: the same budget."""


@dataclass(frozen=True)
class LabSpec:
    """One experiment: variants of one recipe, each trained with the same seeds."""

    name: str
    """A short name: the lab's folder is called so unless told otherwise."""
    question: str
    """What the lab is to find out, in one sentence."""
    base: Mapping[str, Any]
    """The recipe that all variants share, with what `changes` in the YAML file sets in it."""
    variants: Mapping[str, Mapping[str, Any]]
    """For each variant what it changes in the base: `{"model.norm": "layernorm"}`."""
    seeds: tuple[int, ...]
    """Seeds; a comparison is paired by them."""
    metrics: tuple[Metric, ...]
    """What is compared."""
    baseline: str
    """The variant that the others are compared with."""
    pairs: Literal["baseline", "all"] = "baseline"
    """Compare every variant with the baseline, or every two variants (a larger family: a stricter correction)."""
    held_equal: tuple[Budget, ...] = ()
    """What must be equal in all runs; it is checked after the runs and reported."""
    tolerance: float = 0.01
    """How far a run may be from the baseline's mean, as a share, and still count as equal."""
    tuning: Tuning | None = None
    """Tuning before the runs that count."""
    seed_key: str = "seed"
    """The dotted key of the recipe that takes the seed."""
    execute: str = EXECUTE
    """`module:function` that trains one recipe: `execute(recipe: dict, run_dir: Path) -> dict`."""
    source: str = field(default="", compare=False)
    """The file it was read from, for the report's commands."""
    base_source: str = field(default="", compare=False)
    """The recipe that took the place of the file's own base, if one did."""
