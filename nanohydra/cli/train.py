"""`nanohydra train`: a model from a recipe."""

from __future__ import annotations

from nanohydra.cli.parsing import parse_recipe
from nanohydra.jobs.config import Recipe


def main(argv: list[str]) -> None:
    """Trains, leaves the base and the report card in the run folder, and says where they are."""
    recipe, folder, _ = parse_recipe("train", "Train a model from a recipe and write its report card.", argv, Recipe)
    from nanohydra.jobs.train import train

    print(f"run: {folder}")
    estimates = train(recipe, folder)
    for name, estimate in estimates.items():
        print(f"  {name:<32} {estimate}")
    base = folder / "base"
    print(f"report: {folder / 'report.md'}\nbase:   {base}   (try: nanohydra sample --base {base} -p 'Once')")
