"""`nanohydra continual`: a sequence of domains, learnt by many strategies, and what of each was forgotten."""

from __future__ import annotations

from pathlib import Path

from nanohydra.cli.parsing import choose, parse, parser


def main(argv: list[str]) -> None:
    """Dispatches to one action."""
    choose(
        "continual",
        argv,
        {
            "run": (run, "lead every strategy of a recipe through its domains, then report"),
            "report": (report, "what was kept and forgotten, and at what cost, from what is finished"),
        },
    )


def run(argv: list[str]) -> None:
    """Runs what is missing of an experiment and prints where its report is."""
    p = parser(
        "continual run",
        "Lead strategies through a sequence of domains. Killed, it goes on where it was when called again.",
    )
    p.add_argument("recipe", type=str, help="the YAML file, such as recipes/continual/tinyworld-sessions.yaml")
    p.add_argument(
        "--out", type=str | None, default=None, help="the experiment's folder (default: under the runs folder)"
    )
    p.add_argument(
        "--jobs", type=int | None, default=None, help="trainings at a time (default: one a GPU, or one a core)"
    )
    args = parse(p, argv)
    from nanohydra import continual

    print(continual.run(Path(args.recipe), Path(args.out) if args.out else None, args.jobs))


def report(argv: list[str]) -> None:
    """Writes the report of an experiment again from what is finished."""
    p = parser("continual report", "Write the report of an experiment from what is finished.")
    p.add_argument("folder", type=str, help="the experiment's folder")
    args = parse(p, argv)
    from nanohydra import continual

    print(continual.report(Path(args.folder)))
