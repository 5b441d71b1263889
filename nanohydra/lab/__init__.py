"""Experiments: variants x seeds, run side by side, compared by statistics that say what the evidence supports.

`run`, `report` and `compare_csv` are what the command line calls. The modules `compare` and `statistics` serve any
other experiment as parts.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal


def run(
    spec: Path,
    out: Path | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    base: Path | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Runs what is missing of a lab and writes its report. Killed, it goes on where it was when called again.

    Args:
        spec: the lab's YAML file.
        out: its folder (default: its name, under the runs folder's `labs`).
        jobs: how many runs at a time (default: one a GPU, or one a core where there is none).
        ray: address of a Ray cluster to run on ("auto", "local", "ray://host:10001"); default: this machine.
        base: a recipe to run the variants on instead of the lab's own.
        say: what takes the lines of progress.
    Returns:
        The path of report.md.
    """
    from nanohydra.home import runs_dir
    from nanohydra.lab.runner import run_lab
    from nanohydra.lab.spec import load_spec

    read = load_spec(spec, base)
    folder = run_lab(read, out or runs_dir() / "labs" / read.name, jobs=jobs, ray=ray, say=say)
    return report(folder.path)


def report(folder: Path, as_: Literal["report", "blog", "retro"] = "report") -> Path:
    """Writes the report of a lab from what is finished, or a draft that cites it.

    Args:
        folder: the lab's folder.
        as_: report; blog (a draft post) or retro (a retrospective), which cite only numbers in the report.
    Returns:
        The path of the markdown file; the same as HTML, the pictures and scores.csv lie beside it.
    """
    from nanohydra.lab.reports import write_report
    from nanohydra.lab.runs import LabFolder
    from nanohydra.lab.study import study_of_lab
    from nanohydra.lab.table import write_csv

    lab = LabFolder.open(folder)
    study, rows = study_of_lab(lab)
    write_csv(rows, lab.path / "scores.csv")
    return write_report(study, lab.path, as_)


def compare_csv(
    path: Path,
    out: Path | None = None,
    lower: Sequence[str] = (),
    higher: Sequence[str] = (),
    baseline: str | None = None,
    pairs: Literal["baseline", "all"] = "baseline",
    held_equal: Sequence[str] = (),
    tolerance: float = 0.01,
    as_: Literal["report", "blog", "retro"] = "report",
) -> Path:
    """Compares the variants of a CSV file of scores from anywhere.

    Args:
        path: columns variant, seed or fold (or both), maybe item, and one column a metric (or metric and value); maybe
            parameters, flops, tokens, seconds, status, reason.
        out: folder of the report (default: beside the file, named after it).
        lower: metrics that are better when lower.
        higher: metrics that are better when higher.
        baseline: the variant to compare with (default: that of the first row).
        pairs: compare every variant with the baseline, or every two variants.
        held_equal: budgets that must be equal (parameters, flops, tokens, seconds).
        tolerance: how far from the baseline still counts as equal, as a share.
        as_: report, blog or retro.
    Returns:
        The path of the markdown file.
    """
    from nanohydra.lab.compare import compare
    from nanohydra.lab.reports import write_report
    from nanohydra.lab.study import study_of_scores
    from nanohydra.lab.table import read_csv

    path = Path(path)
    analysis = compare(
        read_csv(path),
        lower=lower,
        higher=higher,
        baseline=baseline,
        pairs=pairs,
        held_equal=held_equal,
        tolerance=tolerance,
    )
    options = [("--lower", lower), ("--higher", higher), ("--held_equal", held_equal)]
    command = ["nanohydra", "lab", "compare", path.name]
    command += [part for option, values in options if values for part in (option, ",".join(values))]
    command += ["--baseline", baseline] if baseline else []
    command += ["--pairs", pairs] if pairs != "baseline" else []
    study = study_of_scores(path.stem, analysis, shlex.join(command))
    return write_report(study, out or path.with_name(f"{path.stem}-report"), as_)
