"""A lab's folder: which runs there are to be, which are finished, and what they measured.

lab.json                          the lab as it was read, its command
runs/VARIANT-HASH/seed-3/         one run's own folder: job.json, log.txt, and what its training writes
runs/VARIANT-HASH/seed-3.json     its result, written when it is finished
report.md, report.html, ...       see report.py

The hash is of the recipe without its seed, so a run is never taken for that of another recipe: change a variant and its
runs start anew, change it back and the old ones count again.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanohydra.errors import UserError
from nanohydra.files import write_json
from nanohydra.lab.config import BUDGETS, LabSpec
from nanohydra.lab.spec import recipe, recipe_id, spec_from_dict, spec_to_dict
from nanohydra.lab.worker import result_path


@dataclass(frozen=True)
class Job:
    """One run of a lab."""

    variant: str
    seed: int
    recipe: dict[str, Any]
    folder: Path
    """The run's folder."""

    @property
    def result(self) -> dict[str, Any] | None:
        """What it measured; None until it is finished."""
        path = result_path(self.folder)
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def prepare(self, execute: str) -> None:
        """Writes what its worker reads."""
        job = {"execute": execute, "variant": self.variant, "seed": self.seed, "recipe": self.recipe}
        write_json(self.folder / "job.json", job)


@dataclass(frozen=True)
class Trial:
    """One point of a variant's tuning grid."""

    variant: str
    patch: Mapping[str, Any]
    score: float
    """Mean of the tuning metric over the tuning seeds; NaN where a run has none."""
    chosen: bool


class LabFolder:
    """Reads and writes a lab's folder."""

    def __init__(self, path: Path, spec: LabSpec) -> None:
        self.path = Path(path)
        self.spec = spec

    @classmethod
    def open(cls, path: Path) -> LabFolder:
        """An existing lab. Raises UserError when the folder holds none."""
        try:
            values = json.loads((Path(path) / "lab.json").read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise UserError(f"{path} holds no lab (no lab.json). Name the folder that nanohydra lab run wrote.") from e
        return cls(path, spec_from_dict(values["spec"]))

    def write_spec(self) -> None:
        """Records the lab; one that is already there under the same name may have changed, another is not replaced."""
        known = self.path / "lab.json"
        if known.exists() and LabFolder.open(self.path).spec.name != self.spec.name:
            raise UserError(
                f"{self.path} holds another lab, {LabFolder.open(self.path).spec.name}. Choose another --out."
            )
        out = _shown(self.path)
        spec = _shown(Path(self.spec.source))
        base = f" --base {_shown(Path(self.spec.base_source))}" if self.spec.base_source else ""
        commands = [f"nanohydra lab run {spec}{base} --out {out}", f"nanohydra lab report {out}"]
        write_json(known, {"commands": commands, "spec": spec_to_dict(self.spec)})

    @property
    def commands(self) -> list[str]:
        """What to type to have the lab again."""
        return list(json.loads((self.path / "lab.json").read_text(encoding="utf-8"))["commands"])

    def job(self, variant: str, trial: Mapping[str, Any], seed: int) -> Job:
        """The run of a variant (with what tuning chose for it) and a seed."""
        made = recipe(self.spec, variant, trial, seed)
        seedless = recipe_id(recipe(self.spec, variant, trial, 0), self.spec.execute)
        return Job(variant, seed, made, self.path / "runs" / f"{variant}-{seedless}" / f"seed-{seed}")

    def tuning_jobs(self) -> list[Job]:
        """The runs of all trials; none without tuning."""
        tuning = self.spec.tuning
        if tuning is None:
            return []
        return [self.job(v, trial, s) for s in tuning.seeds for v, trials in tuning.grids.items() for trial in trials]

    def jobs(self) -> list[Job]:
        """The runs that count, seed by seed, so that a lab cut short has whole pairs. Tuning must be finished."""
        chosen = {trial.variant: trial.patch for trial in self.trials() if trial.chosen}
        return [self.job(v, chosen.get(v, {}), s) for s in self.spec.seeds for v in self.spec.variants]

    def trials(self) -> list[Trial]:
        """The tuning trials with their scores, in the order of the grid; the best of each variant is chosen."""
        tuning = self.spec.tuning
        if tuning is None:
            return []
        sign = next(m.sign for m in self.spec.metrics if m.name == tuning.metric)
        trials = []
        for variant, patches in tuning.grids.items():
            scores = [
                _mean(_score(self.job(variant, patch, seed).result, tuning.metric) for seed in tuning.seeds)
                for patch in patches
            ]
            best = max(range(len(scores)), key=lambda i: -math.inf if math.isnan(scores[i]) else sign * scores[i])
            trials += [Trial(variant, patch, scores[i], i == best) for i, patch in enumerate(patches)]
        return trials

    def tuning_notes(self) -> list[str]:
        """A sentence for each choice not to be trusted: all trials failed, or the best lies at the grid's edge."""
        notes = []
        if any(job.result is None for job in self.tuning_jobs()):
            return ["The tuning is not finished."]
        trials = self.trials()
        for best in (trial for trial in trials if trial.chosen):
            own = [trial for trial in trials if trial.variant == best.variant]
            if all(math.isnan(trial.score) for trial in own):
                notes.append(f"Tuning {best.variant}: every trial diverged or has no score; the first one is used.")
            for key, value in best.patch.items():
                tried = sorted({trial.patch[key] for trial in own if isinstance(trial.patch[key], int | float)})
                if len(tried) > 1 and value in (tried[0], tried[-1]):
                    notes.append(f"Tuning {best.variant}: the best {key}, {value}, lies at the edge of what was tried.")
        return notes

    def rows(self) -> list[dict[str, Any]]:
        """The finished runs as rows for `compare.compare`: one a run, and one for each item of each run."""
        rows = []
        for job in self.jobs():
            result = job.result
            if result is None:
                continue
            key = {"variant": job.variant, "seed": job.seed}
            row = {**key, **{m.name: _score(result, m.name) for m in self.spec.metrics}}
            row |= {b: _value(result, b) for b in BUDGETS if _value(result, b) is not None and b not in row}
            if result["status"] != "finished":
                step = f"at step {result['step']}: " if "step" in result else ""
                row |= {"status": result["status"], "reason": f"{step}{result.get('reason', 'no reason given')}"}
            rows.append(row)
            rows += [
                {**key, **item} for item in _items(job.folder / "items.jsonl", [m.name for m in self.spec.metrics])
            ]
        return rows

    def progress_notes(self) -> list[str]:
        """A sentence where runs are still to come."""
        jobs = self.jobs()
        open_jobs = [job for job in jobs if job.result is None]
        if not open_jobs:
            return []
        first = ", ".join(f"{job.variant} seed {job.seed}" for job in open_jobs[:5])
        return [f"{len(open_jobs)} of {len(jobs)} runs have no result yet ({first}): the lab is not finished."]


def _shown(path: Path) -> str:
    """A path as a reader on another machine can use it: from the working folder, else its name."""
    path = path.resolve()
    return shlex.quote(str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name)


def _value(result: Mapping[str, Any], name: str) -> float | None:
    """A number of a result, given at its top or under "metrics", as itself or as an estimate with a "value"."""
    found = result.get(name, (result.get("metrics") or {}).get(name))
    return found.get("value") if isinstance(found, Mapping) else found


def _score(result: Mapping[str, Any] | None, name: str) -> float | None:
    """A run's metric: NaN where the run diverged, None where it was not measured (or not run yet)."""
    if result is None or result["status"] == "finished":
        return _value(result or {}, name)
    return math.nan


def _mean(values: Iterable[float | None]) -> float:
    numbers = [math.nan if value is None else float(value) for value in values]
    return math.fsum(numbers) / len(numbers)


def _items(path: Path, names: list[str]) -> list[dict[str, Any]]:
    """The item scores of a run: of each line the item and the lab's metrics."""
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [{"item": line["item"], **{n: line[n] for n in names if n in line}} for line in lines]
