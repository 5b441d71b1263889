"""`nanohydra speedrun`: the main job, and a chat with what came out."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nanohydra import jobs
from nanohydra.cli.parsing import parse_recipe
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.jobs.config import Recipe

if TYPE_CHECKING:
    from nanohydra.evals.exam import Graded

RECIPE = Path(jobs.__file__).with_name("speedrun.yaml")
DESCRIPTION = "From nothing to a chat model: a small world, a tokenizer, training, an exam, a report card, a chat."


TEACH = {"teach": (60.0, "seconds for a lesson at the end, about somebody new; 0: none")}


def main(argv: list[str]) -> None:
    """Trains, prints the report card, teaches a first lesson, and opens a chat (without a terminal: shows some answers)."""
    recipe, folder, options = parse_recipe("speedrun", DESCRIPTION, argv, Recipe, start=RECIPE, options=TEACH)
    print(f"run: {folder}\nworld: {recipe.data.tinyworld.people} people, seed {recipe.seed}")
    from nanohydra.home import bases_dir
    from nanohydra.jobs.speedrun import speedrun
    from nanohydra.model.hub import save_base

    estimates, engine, shown = speedrun(recipe, folder)
    width = max(map(len, estimates))
    for name, estimate in estimates.items():
        print(f"  {name:<{width}}  {estimate}")
    print(f"report: {folder / 'report.md'}")
    save_base(bases_dir() / "demo", engine.model, engine.tokenizer)
    print(f"base:   {bases_dir() / 'demo'}   (later: nanohydra chat)\n")
    for g in shown:
        print(f"> {g.item.question}\n{g.answer}")
    finish(recipe, options["teach"], shown)
    print("\nIn the browser: nanohydra serve   (then open http://127.0.0.1:8000)")


def finish(recipe: Recipe, seconds: float, shown: list[Graded]) -> None:
    """The first lesson, where its extra is installed, and a chat where there is a terminal."""
    from nanohydra.cli.chat import converse, remembering
    from nanohydra.jobs.bases import open_engine
    from nanohydra.jobs.data import world_of

    typed = sys.stdin.isatty() and sys.stdout.isatty()
    teaches = seconds > 0 and recipe.data.corpus == "tinyworld" and find_spec("bm25s") is not None
    if not (typed or teaches):
        return
    with ExitStack() as stack:
        engine = open_engine("demo", adapters=True)
        recalling = remembering(stack, engine, "demo", "on")
        if teaches and recalling is not None:
            from nanohydra.cli.first_lesson import first_lesson, show_answers

            world = world_of(recipe.data, recipe.seed)
            try:
                person = first_lesson(recalling.store, recalling.user_id, "demo", world, seconds)
                show_answers(engine, recalling, person)
            except UserError as e:  # the model is trained all the same
                print(f"No lesson: {e}")
        if typed:
            print("\nAsk about somebody of its world, for example:")
            print("".join(f"  {g.item.question}\n" for g in shown) + "/new starts over, /quit leaves.")
            converse(engine, [], SamplingParams(max_tokens=96), recalling)
