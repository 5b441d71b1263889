"""Reading scores from anywhere, with a word for everything that is odd and nothing dropped in silence."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanohydra.errors import UserError, did_you_mean
from nanohydra.files import write_text
from nanohydra.lab.config import BUDGETS, Metric

KEYS = ("variant", "seed", "fold", "item", "metric", "value", "status", "reason")
"""Columns with a meaning of their own; other columns are metrics or budgets."""

LOWER_WORDS = ("loss", "perplexity", "ppl", "error", "bits", "nll", "seconds", "hallucination", "forgetting", "bytes")
"""A metric whose name contains one of these is better when lower, unless the caller says otherwise."""

Items = dict[str, float]
"""Scores of one run by evaluation item; the single key "" where the run has one score."""


@dataclass
class Scores:
    """Scores by metric, variant and unit (a seed, a fold, or a fold of a seed), and what must be said about them."""

    variants: list[str]
    """In the order of their first row."""
    units: list[str]
    """All seeds (or folds) of any variant, in natural order."""
    unit_name: str
    """What a unit is: "seed" or "fold"."""
    folds: int
    """Folds of each cross-validation; 0 where units are independent runs."""
    values: dict[str, dict[str, dict[str, Items]]]
    """values[metric][variant][unit]; finite scores only."""
    lost: dict[str, dict[str, dict[str, str]]]
    """lost[metric][variant][unit]: why a run that took place has no score (it diverged, the score is NaN)."""
    budgets: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """budgets[name][variant][unit], for those of parameters, flops, tokens and seconds that are known."""
    notes: list[str] = field(default_factory=list)
    """One sentence for each oddity."""


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header line. Raises UserError when it is missing, empty or not a table."""
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, restkey="", restval="", skipinitialspace=True)
            rows = list(reader)
    except FileNotFoundError as e:
        raise UserError(f"There is no file {path}. Name a CSV file with the columns variant, seed and a metric.") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path} is not a CSV file: {e}. Save the table as comma-separated UTF-8 text.") from e
    for number, row in enumerate(rows, 2):
        if "" in row:
            raise UserError(f"{path}, line {number}: more cells than the header has. Quote cells that contain commas.")
    if not rows:
        raise UserError(f"{path} has no rows. It needs a header (variant,seed,score) and one line for each run.")
    return rows


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes rows as `read_csv` reads them; what a row lacks is an empty cell."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_scores(rows: Iterable[Mapping[str, Any]], metrics: Collection[str] | None = None) -> Scores:
    """Sorts rows into `Scores`.

    A row has `variant`, `seed` or `fold` (or both), maybe `item`, and either one column a metric or the columns
    `metric` and `value`. Budget columns (parameters, flops, tokens, seconds) are understood, and `status` = diverged
    with a `reason`. An empty cell means "not measured here"; NaN, infinity and text mean a run that lost its score.

    Args:
        metrics: read these only (default: every column that is not another thing).
    """
    table = [_clean(row) for row in rows]
    columns = list(dict.fromkeys(name for row in table for name in row))
    _require(columns, "variant", columns)
    if "seed" not in columns and "fold" not in columns:
        _require(columns, "seed", columns)
    long = "metric" in columns and "value" in columns
    if long:
        names = list(dict.fromkeys(str(row["metric"]) for row in table if "metric" in row))
    else:
        names = [name for name in columns if name not in KEYS and name not in BUDGETS]
        names += [name for name in metrics or () if name in BUDGETS and name in columns]
    for name in metrics or ():
        _require(names, name, names)
    names = [name for name in names if metrics is None or name in metrics]
    if not names:
        raise UserError(f"No column holds a metric: there are only {', '.join(columns)}. Add one, such as val_loss.")
    return _Reader(names, long, columns).read(table)


class _Reader:
    """One pass over the rows."""

    def __init__(self, names: list[str], long: bool, columns: list[str]) -> None:
        self.names, self.long = names, long
        self.keys = [key for key in ("seed", "fold") if key in columns]
        self.cells: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)  # metric, variant, unit, item
        self.bad: dict[tuple[str, str, str], list[str]] = defaultdict(list)  # metric, variant, unit -> items
        self.diverged: dict[tuple[str, str], str] = {}
        self.budgets: dict[str, dict[str, dict[str, float]]] = {}
        self.notes: list[str] = []

    def read(self, table: list[dict[str, Any]]) -> Scores:
        variants: dict[str, None] = {}
        units: dict[str, tuple[str, ...]] = {}
        for number, row in enumerate(table, 1):
            for key in ("variant", *self.keys):
                if key not in row:
                    raise UserError(f"Row {number} has no {key}. Every row needs one.")
            variant, parts = row["variant"], tuple(row[key] for key in self.keys)
            unit = "/".join(parts)
            variants[variant] = None
            units[unit] = parts
            self._row(row, variant, unit)
        folds = len({parts[-1] for parts in units.values()}) if "fold" in self.keys else 0
        scores = Scores(
            variants=list(variants),
            units=sorted(units, key=natural),
            unit_name=self.keys[-1],
            folds=folds,
            values={name: {v: {} for v in variants} for name in self.names},
            lost={name: {v: {} for v in variants} for name in self.names},
            budgets=self.budgets,
        )
        self._fill(scores)
        scores.notes = self.notes
        return scores

    def _row(self, row: dict[str, Any], variant: str, unit: str) -> None:
        if str(row.get("status", "")).lower() in ("diverged", "failed"):
            status = str(row["status"]).lower()
            self.diverged[variant, unit] = f"{status} ({row['reason']})" if "reason" in row else status
        for budget in BUDGETS:
            if budget in row and budget not in self.names:
                value = _number(row[budget])
                if math.isfinite(value):
                    self.budgets.setdefault(budget, {}).setdefault(variant, {})[unit] = value
        pairs = [(row.get("metric"), "value")] if self.long else [(name, name) for name in self.names]
        item = str(row.get("item", ""))
        for name, column in pairs:
            if name in self.names and column in row:
                value = _number(row[column])
                if math.isfinite(value):
                    self.cells[name, variant, unit, item].append(value)
                else:
                    self.bad[name, variant, unit].append(item)

    def _fill(self, scores: Scores) -> None:
        repeated: dict[tuple[str, str], list[str]] = defaultdict(list)
        for (name, variant, unit, item), given in self.cells.items():
            scores.values[name][variant].setdefault(unit, {})[item] = math.fsum(given) / len(given)
            if len(given) > 1:
                kind = "equal" if len(set(given)) == 1 else "different"
                repeated[variant, kind].append(f"{scores.unit_name} {unit}" + (f" item {item}" if item else ""))
        for (variant, kind), places in repeated.items():
            used = "used once" if kind == "equal" else "their mean is used (is a column item or fold missing?)"
            self.notes.append(f"{variant}: several {kind} scores for {_some(places)}: {used}.")
        for (name, variant, unit), bad in self.bad.items():
            run = scores.values[name][variant].get(unit, {})
            if run and "" not in bad:
                where = f"{variant}, {scores.unit_name} {unit}"
                self.notes.append(
                    f"{where}: {len(bad)} item scores of {name} are not numbers; those items are left out."
                )
                for item in bad:
                    run.pop(item, None)
            if not run or "" in bad:
                scores.values[name][variant].pop(unit, None)
                scores.lost[name][variant][unit] = "its score is not a finite number"
        for (variant, unit), reason in self.diverged.items():
            for name in self.names:
                scores.values[name][variant].pop(unit, None)
                scores.lost[name][variant][unit] = reason
        for name, by_variant in scores.values.items():
            for variant, runs in by_variant.items():
                for unit, run in runs.items():
                    if "" in run and len(run) > 1:
                        self._mean_beside_items(name, f"{variant}, {scores.unit_name} {unit}", run)

    def _mean_beside_items(self, name: str, where: str, run: Items) -> None:
        """A run that has a score and scores by item: the items are used; a score that is not their mean is told."""
        given = run.pop("")
        mean = math.fsum(run.values()) / len(run)
        if not math.isclose(given, mean, rel_tol=1e-6, abs_tol=1e-9):
            self.notes.append(
                f"{where}: {name} is {given:.6g} but the mean of its items is {mean:.6g}; the items count."
            )


def directions(
    names: Iterable[str], lower: Collection[str], higher: Collection[str], effects: Mapping[str, float] | None = None
) -> tuple[list[Metric], list[str]]:
    """Which way is better for each metric, as told or else by its name; and a note for each that was guessed."""
    names, metrics, notes = list(names), [], []
    for name in (*lower, *higher, *(effects or {})):
        _require(names, name, names)
    for name in names:
        told = "lower" if name in lower else "higher" if name in higher else None
        guess = "lower" if any(word in name.lower() for word in LOWER_WORDS) else "higher"
        if told is None:
            notes.append(
                f"{name}: taken as {guess} is better, from its name. Say so with lower or higher if it is not."
            )
        metrics.append(Metric(name, "lower" if (told or guess) == "lower" else "higher", (effects or {}).get(name)))
    return metrics, notes


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key by which "seed 10" comes after "seed 9"."""
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in re.split(r"(\d+)", text) if part]


def _clean(row: Mapping[str, Any]) -> dict[str, Any]:
    """Column names without blanks around them, keys as text, empty cells left out."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        value = value.strip() if isinstance(value, str) else value
        if value is None or value == "":
            continue
        name = str(name).strip()
        name = name.lower() if name.lower() in KEYS or name.lower() in BUDGETS else name
        if name in ("seed", "fold", "item"):  # 3, 3.0 and "3" are one seed
            number = _number(value)
            value = str(int(number)) if math.isfinite(number) and number == int(number) else str(value)
        cells[name] = " ".join(str(value).split()) if name in ("variant", "reason") else value
    return cells


def _number(value: Any) -> float:
    """The value as a number; NaN for text that is none, and for sizes that only a broken run has."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if abs(number) < 1e100 else math.nan


def _require(known: Collection[str], name: str, columns: Collection[str]) -> None:
    if name not in known:
        raise UserError(f'The scores have no column "{name}".{did_you_mean(name, columns)}')


def _some(names: list[str], most: int = 5) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
