"""`nanohydra lab`: experiments with variants and seeds, and what their numbers support."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nanohydra.cli.parsing import choose, parse, parser

Form = Literal["report", "blog", "retro"]


def main(argv: list[str]) -> None:
    """Dispatches to one action."""
    choose(
        "lab",
        argv,
        {
            "run": (run, "train variants x seeds of a lab's YAML file, then report"),
            "report": (report, "what the evidence of a lab supports, in plain words"),
            "compare": (compare, "the same for a CSV file of scores from anywhere"),
        },
    )


def run(argv: list[str]) -> None:
    """Runs what is missing of a lab and prints where its report is."""
    p = parser("lab run", "Train the variants x seeds of a lab. Killed, it goes on where it was when called again.")
    p.add_argument("spec", type=str, help="the lab's YAML file, such as recipes/lab/norms.yaml")
    p.add_argument("--base", type=str | None, default=None, help="run its variants on this recipe instead of its own")
    p.add_argument("--out", type=str | None, default=None, help="the lab's folder (default: under the runs folder)")
    p.add_argument("--jobs", type=int | None, default=None, help="runs at a time (default: one a GPU, or one a core)")
    p.add_argument("--ray", type=str | None, default=None, help="run on a Ray cluster at this address")
    args = parse(p, argv)
    from nanohydra import lab

    out, base = (Path(given) if given else None for given in (args.out, args.base))
    print(lab.run(Path(args.spec), out, args.jobs, args.ray, base))


def report(argv: list[str]) -> None:
    """Writes the report of a lab again from what is finished."""
    p = parser("lab report", "Write the report of a lab from what is finished, or a draft that cites it.")
    p.add_argument("folder", type=str, help="the lab's folder")
    p.add_argument("--as", dest="as_", type=Form, default="report", help="report, blog (a draft post) or retro")
    args = parse(p, argv)
    from nanohydra import lab

    print(lab.report(Path(args.folder), args.as_))


def compare(argv: list[str]) -> None:
    """Compares the variants of a CSV file."""
    p = parser("lab compare", "Compare variants by scores from anywhere: columns variant, seed or fold, item?, metric.")
    p.add_argument("scores", type=str, help="the CSV file")
    p.add_argument("--out", type=str | None, default=None, help="folder of the report (default: beside the file)")
    p.add_argument("--lower", type=list[str], default=[], help="metrics that are better when lower")
    p.add_argument("--higher", type=list[str], default=[], help="metrics that are better when higher")
    p.add_argument("--baseline", type=str | None, default=None, help="the variant to compare with (default: the first)")
    p.add_argument(
        "--pairs", type=Literal["baseline", "all"], default="baseline", help="with the baseline, or every two"
    )
    p.add_argument(
        "--held_equal", type=list[str], default=[], help="budgets that must be equal: parameters, flops, ..."
    )
    p.add_argument("--tolerance", type=float, default=0.01, help="how unequal still counts as equal, as a share")
    p.add_argument("--as", dest="as_", type=Form, default="report", help="report, blog (a draft post) or retro")
    args = parse(p, argv)
    from nanohydra import lab

    print(
        lab.compare_csv(
            Path(args.scores),
            Path(args.out) if args.out else None,
            args.lower,
            args.higher,
            args.baseline,
            args.pairs,
            args.held_equal,
            args.tolerance,
            args.as_,
        )
    )
