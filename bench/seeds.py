"""A recipe with several seeds, one after the other on the whole machine: the least, the mean and the greatest of each figure.

    python bench/seeds.py speedrun --out /tmp/speedruns
    python bench/seeds.py train recipes/shakespeare_char.yaml --out /tmp/shakespeare

With another seed the world, the wordings, the initial weights and the order of the data are others. Finished seeds in the
folder are not repeated. Everything after --out DIR goes to the verb unchanged (such as --train.seconds 60).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from nanohydra.files import write_json


def main() -> None:
    """Runs what is missing, then prints a markdown table and writes it as JSON."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("verb", nargs="+", help="speedrun, or train RECIPE.yaml")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    args, more = p.parse_known_args()
    reports = []
    for seed in args.seeds:
        folder = args.out / f"seed-{seed}"
        if not (folder / "report.json").exists():
            command = [sys.executable, "-m", "nanohydra", *args.verb, "--seed", str(seed), "--out", str(folder), *more]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        reports.append(json.loads((folder / "report.json").read_text(encoding="utf-8")))
    table = {}
    print(f"\n{len(reports)} seeds\n\n| measure | n | min | mean | max |\n|---|---:|---:|---:|---:|")
    for name, first in reports[0].items():
        if isinstance(first, dict) and "value" in first:
            values = [report[name]["value"] for report in reports]
            table[name] = {"n": first["n"], "values": values}
            figures = (min(values), statistics.mean(values), max(values))
            print(f"| {name} | {first['n']:,} | " + " | ".join(_number(x) for x in figures) + " |")
    write_json(args.out / "seeds.json", table)


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"


if __name__ == "__main__":
    main()
