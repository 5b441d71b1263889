"""`nanohydra sft`: fine-tune a base on conversations."""

from __future__ import annotations

from nanohydra.cli.parsing import parse_recipe
from nanohydra.jobs.config import SftRecipe

DESCRIPTION = """Fine-tune a base on conversations; the loss is on the assistant's words alone.
For example: nanohydra sft --base smollm2 --data chats.jsonl --train.steps 200"""


def main(argv: list[str]) -> None:
    """Fine-tunes and says where the new base is."""
    recipe, folder, _ = parse_recipe("sft", DESCRIPTION, argv, kind=SftRecipe)
    from nanohydra.jobs.sft import run_sft

    print(f"run: {folder}")
    result = run_sft(recipe, folder)
    held_out = f", held out: {result.evaluation['val_loss']:.4f}" if "val_loss" in result.evaluation else ""
    print(f"loss {result.loss:.4f}{held_out} after {result.step} steps, {result.seconds:.0f} s")
    print(f"base: {folder / 'base'}   (try: nanohydra chat --base {folder / 'base'})")
