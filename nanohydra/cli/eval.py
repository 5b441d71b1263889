"""`nanohydra eval`: measure a base."""

from __future__ import annotations

from pathlib import Path

from nanohydra.cli.parsing import parse, parser
from nanohydra.jobs.config import EvalOptions


def main(argv: list[str]) -> None:
    """Prints the estimates, and writes them where asked."""
    p = parser("eval", "Perplexity and bits per byte on a text, and the tinyworld exam.")
    p.add_class_arguments(EvalOptions, as_group=False)
    options = EvalOptions(**vars(parse(p, argv)))
    if options.corpus is None and not options.exam:
        p.error("Say what to measure: --corpus wikitext-2 (or a file), --exam 400, or both.")
    from nanohydra.evals.exam import MEANING
    from nanohydra.evals.report import write_report
    from nanohydra.jobs.evaluate import evaluate

    estimates = evaluate(options)
    width = max(map(len, estimates))
    for name, estimate in estimates.items():
        print(f"{name:<{width}}  {estimate}")
    if options.out:
        details = {"base": options.base, "corpus": options.corpus, "split": options.split, "int8": options.int8}
        write_report(Path(options.out), f"{options.base}", estimates, meaning=MEANING, details=details)
        print(f"report: {Path(options.out) / 'report.md'}")
