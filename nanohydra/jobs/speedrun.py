"""The main job: from nothing to a chat model that knows a small world, can calculate, and has a report card."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.evals.exam import MEANING, Graded
from nanohydra.evals.intervals import Estimate
from nanohydra.evals.report import write_report
from nanohydra.infer.engine import Engine
from nanohydra.jobs.config import Recipe
from nanohydra.jobs.train import exact, run_recipe

KINDS = (
    "recall_unseen_wordings",
    "two_hop",
    "ages",
    "arithmetic_with_tool",
    "hallucination_unknown_people",
    "small_talk",
)
"""The kinds of questions that a person is shown, in this order."""


def speedrun(recipe: Recipe, folder: Path) -> tuple[dict[str, Estimate], Engine, list[Graded]]:
    """Trains and examines; leaves the base and the report card in `folder`.

    Returns:
        The estimates of the report, an engine over the new model, and an exam question of each kind with its answer.
    """
    began = time.monotonic()
    trained = run_recipe(recipe, folder)
    shown = [g for kind in KINDS for g in first_of(trained.graded, kind, 1)]
    estimates = {**trained.estimates, "minutes": exact((time.monotonic() - began) / 60)}
    details = {"seed": recipe.seed, "training tokens": trained.result.tokens, "steps": trained.result.step}
    samples = [(g.item.question, g.answer) for kind in KINDS for g in first_of(trained.graded, kind, 3)]
    write_report(folder, "Report card", estimates, meaning=MEANING, details=details, samples=samples, run_dir=folder)
    return estimates, Engine(trained.model, trained.prepared.tokenizer, (CALCULATOR,)), shown


def first_of(graded: Sequence[Graded], kind: str, n: int) -> list[Graded]:
    """The first `n` answers of a kind, right or wrong."""
    return [g for g in graded if g.item.kind == kind][:n]
