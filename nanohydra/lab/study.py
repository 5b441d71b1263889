"""All that a report tells of: an analysis and where it came from."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nanohydra.errors import UserError
from nanohydra.lab.compare import Analysis, compare
from nanohydra.lab.plots import Curve
from nanohydra.lab.runs import LabFolder, Trial

ENVIRONMENT = ("nanohydra", "python", "torch", "numpy", "platform", "cpu", "cores", "threads", "gpus", "git")
"""What the report tells of a run's environment.json."""


@dataclass(frozen=True)
class Study:
    """What is reported."""

    name: str
    question: str
    analysis: Analysis
    commands: Sequence[str]
    """What to type to have the same again."""
    environment: Mapping[str, Sequence[str]]
    """For each property the values met (more than one where runs differ)."""
    runs: str = ""
    """How many runs there are and how they ended."""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each variant changes in the base."""
    base: Mapping[str, Any] = field(default_factory=dict)
    """The recipe that they change."""
    trials: Sequence[Trial] = ()
    """The tuning before."""
    notes: Sequence[str] = ()
    """What must be said about the runs, beside the analysis's own notes."""
    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    """Loss curves of the finished runs."""
    curve_axes: tuple[str, str] = ("", "")
    """Names of the curves' axes."""


def study_of_lab(folder: LabFolder) -> tuple[Study, list[dict[str, Any]]]:
    """Reads a lab's folder; finished or not. Also returns the rows of scores that the analysis rests on."""
    spec, rows = folder.spec, folder.rows()
    present = {row["variant"] for row in rows}
    absent = [variant for variant in spec.variants if variant not in present]
    if spec.baseline in absent or len(present) < 2:
        raise UserError(
            f"{folder.path}: too few runs are finished for a comparison ({', '.join(absent)} has none). "
            f"Run nanohydra lab run again: it goes on where it was."
        )
    analysis = compare(
        rows,
        spec.metrics,
        baseline=spec.baseline,
        pairs=spec.pairs,
        held_equal=spec.held_equal,
        tolerance=spec.tolerance,
    )
    jobs = folder.jobs()
    results = [job.result for job in jobs]
    finished = sum(r is not None and r["status"] == "finished" for r in results)
    other = sum(r is not None for r in results) - finished
    curves, axes = _curves(folder)
    study = Study(
        name=spec.name,
        question=spec.question,
        analysis=analysis,
        commands=folder.commands,
        environment=_environments([job.folder / "environment.json" for job in jobs]),
        runs=f"{finished} of {len(jobs)} runs finished" + (f", {other} ended without a score." if other else "."),
        changes=spec.variants,
        base=spec.base,
        trials=folder.trials(),
        notes=[*folder.progress_notes(), *folder.tuning_notes(), *(f"{v} has no run with a result." for v in absent)],
        curves=curves,
        curve_axes=axes,
    )
    return study, rows


def study_of_scores(name: str, analysis: Analysis, command: str) -> Study:
    """A study of numbers that came from elsewhere."""
    return Study(name, "", analysis, [command], _environments([]))


def _environments(paths: Sequence[Path]) -> dict[str, list[str]]:
    """The environments of all runs, and under "analysis" that of this process."""
    found: dict[str, dict[str, None]] = {}
    for path in paths:
        if path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
            for key in ENVIRONMENT:
                if values.get(key) not in (None, [], ""):
                    told = _told(values[key])
                    found.setdefault(key, {})[told.split("-")[0] if key == "platform" else told] = None
    here = [
        f"python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in ("nanohydra", "numpy", "scipy")),
    ]
    return {**{key: list(values) for key, values in found.items()}, "analysis": [", ".join(here)]}


def _told(value: Any) -> str:
    if isinstance(value, Mapping) and "revision" in value:  # git
        return f"{value['revision'][:10]}{' with uncommitted changes' if value.get('dirty') else ''}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _curves(folder: LabFolder) -> tuple[dict[str, list[Curve]], tuple[str, str]]:
    """The validation losses over tokens (or steps) of all finished runs; the training losses where there are none."""
    records: dict[str, list[list[dict[str, Any]]]] = {}
    for job in folder.jobs():
        path = job.folder / "metrics.jsonl"
        result = job.result
        if result is not None and result["status"] == "finished" and path.exists():
            records.setdefault(job.variant, []).append(_read_jsonl(path))
    everything = [record for runs in records.values() for run in runs for record in run]
    x_name = "tokens" if any("tokens" in record for record in everything) else "step"
    for y_name in ("val_loss", "loss"):
        curves = {
            variant: [curve for run in runs if len((curve := _curve(run, x_name, y_name))[0]) > 1]
            for variant, runs in records.items()
        }
        curves = {variant: runs for variant, runs in curves.items() if runs}
        if curves:
            return curves, (x_name, "val_loss" if y_name == "val_loss" else "training loss, smoothed")
    return {}, ("", "")


def _curve(run: list[dict[str, Any]], x_name: str, y_name: str) -> Curve:
    points = [(r[x_name], r[y_name]) for r in run if _finite(r.get(x_name)) and _finite(r.get(y_name))]
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    if y_name == "loss":  # of one batch each: a running mean over a fiftieth of the run
        window = max(1, len(y) // 50)
        x, y = x[window - 1 :], np.convolve(y, np.full(window, 1 / window), "valid")
    return x, y


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Whole lines; one torn by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
