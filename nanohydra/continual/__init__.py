"""Continual learning: a sequence of domains, learnt by many strategies, and what of each was forgotten at what cost.

`run` and `report` are what the command line calls. The modules `strategy`, `stages`, `metrics` and `domains` are parts
for other experiments.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def run(recipe: Path, out: Path | None = None, jobs: int | None = None, say: Callable[[str], None] = print) -> Path:
    """Runs what is missing of an experiment and writes its report. Killed, it goes on where it was when called again.

    Args:
        recipe: the experiment's YAML file.
        out: its folder (default: its name, under the runs folder's `continual`).
        jobs: how many trainings at a time (default: one a GPU, or one a core where there is none).
        say: what takes the lines of progress.
    Returns:
        The path of report.md.
    """
    from nanohydra.continual.plan import Plan
    from nanohydra.continual.runner import run_experiment
    from nanohydra.home import runs_dir

    plan = Plan.load(recipe)
    folder = out or runs_dir() / "continual" / plan.recipe.name
    run_experiment(plan, folder, jobs=jobs, say=say)
    return report(folder)


def report(folder: Path) -> Path:
    """Writes the report of an experiment from what is finished; returns the path of the markdown file. The same as
    HTML, the pictures, and the numbers (results.json, scores.csv) lie beside it."""
    from nanohydra.continual.reports import write_report
    from nanohydra.continual.results import read_results

    return write_report(read_results(folder), folder)
