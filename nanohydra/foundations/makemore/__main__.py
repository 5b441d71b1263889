"""Train the whole ladder: ``python -m nanohydra.foundations.makemore --names names.txt --out results``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nanohydra.errors import UserError
from nanohydra.files import write_json, write_text
from nanohydra.foundations.makemore.data import read_names
from nanohydra.foundations.makemore.ladder import MODELS, as_json, bigram_on_all, markdown, run, scores_csv


def main(arguments: list[str] | None = None) -> int:
    """Reads, trains, prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nanohydra.foundations.makemore", description=__doc__)
    parser.add_argument(
        "--names", type=Path, required=True, help="text file, one name a line; or .jsonl(.xz) with name"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL", help=f"of: {', '.join(MODELS)}")
    parser.add_argument("--seeds", type=int, default=1, help="trainings per model (default 1)")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps instead of each model's own")
    parser.add_argument("--out", type=Path, default=None, help="folder for table.md, table.json and scores.csv")
    options = parser.parse_args(arguments)
    try:
        names = read_names(options.names)
        all_names = bigram_on_all(names)
        scores = []
        for model in options.models:
            for seed in range(options.seeds):
                scores.append(run(names, model, seed, options.steps))
                print(f"{model} seed {seed}: held-out NLL {scores[-1].held_out:.4f}", file=sys.stderr)
        table = markdown(scores, all_names)
        if options.out:
            write_text(options.out / "table.md", table)
            write_json(options.out / "table.json", as_json(scores, all_names))
            write_text(options.out / "scores.csv", scores_csv(scores))
        print(table, end="")
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
