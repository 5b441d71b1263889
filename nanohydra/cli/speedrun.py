"""`nanohydra speedrun`: the main job, and a chat with what came out."""

from __future__ import annotations

import sys
from pathlib import Path

from nanohydra import jobs
from nanohydra.cli.parsing import parse_recipe
from nanohydra.infer.config import SamplingParams
from nanohydra.jobs.config import Recipe

RECIPE = Path(jobs.__file__).with_name("speedrun.yaml")
DESCRIPTION = "From nothing to a chat model: a small world, a tokenizer, training, an exam, a report card, a chat."


def main(argv: list[str]) -> None:
    """Trains, prints the report card, and opens a chat (without a terminal: shows a handful of answers)."""
    recipe, folder = parse_recipe("speedrun", DESCRIPTION, argv, Recipe, start=RECIPE)
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
    if sys.stdin.isatty() and sys.stdout.isatty():
        from nanohydra.cli.chat import converse

        print("Ask about somebody of its world, for example:")
        print("".join(f"  {g.item.question}\n" for g in shown) + "/new starts over, /quit leaves.")
        converse(engine, [], SamplingParams(max_tokens=96))
    else:
        for g in shown:
            print(f"> {g.item.question}\n{g.answer}")
    print("\nIn the browser: nanohydra serve   (then open http://127.0.0.1:8000)")
