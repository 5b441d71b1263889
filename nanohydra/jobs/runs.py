"""The run folder of a job: a new one, or the one where an earlier try at the same recipe stopped."""

from __future__ import annotations

from pathlib import Path

from nanohydra.errors import UserError
from nanohydra.jobs.config import Recipe, SftRecipe
from nanohydra.train.run import Run


def open_run(recipe: Recipe | SftRecipe, run_dir: Path) -> Run:
    """The run of `recipe` in `run_dir`: a new one, or the one that was started there with the same recipe."""
    if not (run_dir / "config.yaml").exists():
        return Run.create(run_dir, recipe.to_dict())
    run = Run.open(run_dir)
    if type(recipe).from_dict(run.config) != recipe:
        raise UserError(
            f"{run_dir} holds a run of another recipe. Choose another folder, or resume with its own config.yaml."
        )
    return run
