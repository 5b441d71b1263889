"""Run folders, read without torch: which there are, how far they are, what they measured."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LIVE_SECONDS = 120.0
"""A run that wrote a line within this time, and no result, is taken to be training."""
_DEPTH = 6
_SKIP = {"checkpoints", "base", "bases"}


@dataclass(frozen=True)
class RunInfo:
    """A run as lists show it."""

    name: str
    """Its folder, from the runs folder on."""
    folder: Path
    state: str
    """finished, training, or stopped."""
    last: Mapping[str, Any]
    """The newest line of metrics.jsonl; empty before the first."""
    changed: float
    """When it last wrote, in seconds since 1970."""


def find_runs(root: Path) -> list[RunInfo]:
    """Every run under the runs folder, labs' and studies' too, last changed first."""
    found = [_info(root, folder) for folder in _folders(root, _DEPTH)]
    return sorted(found, key=lambda run: -run.changed)


def open_run(root: Path, name: str) -> RunInfo | None:
    """The run of a name; None where there is none (nor ever one outside the runs folder)."""
    folder = (root / name).resolve()
    if not folder.is_relative_to(root.resolve()) or not (folder / "config.yaml").is_file():
        return None
    return _info(root.resolve(), folder)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError:
        return
    if any(e.name == "config.yaml" for e in entries):
        yield folder
    if depth:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and entry.name not in _SKIP and not entry.name.startswith("."):
                yield from _folders(Path(entry.path), depth - 1)


def _info(root: Path, folder: Path) -> RunInfo:
    metrics = folder / "metrics.jsonl"
    changed = (metrics if metrics.exists() else folder / "config.yaml").stat().st_mtime
    if (folder / "result.json").exists():
        state = "finished"
    else:
        state = "training" if metrics.exists() and time.time() - changed < LIVE_SECONDS else "stopped"
    return RunInfo(str(folder.relative_to(root)), folder, state, _last_line(metrics), changed)


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line, from the end of the file: metrics may be long."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {}


@dataclass
class Tail:
    """A file of JSON lines that grows: each `read` parses only what is new."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    _at: int = 0

    def read(self) -> bool:
        """Takes in new lines; True where there were any. A file that became shorter (a resumed run) is read anew."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size == self._at:
            return False
        if size < self._at:
            self.rows, self._at = [], 0
        with self.path.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        whole = new.rfind(b"\n") + 1  # a last line that is being written waits for the next read
        self._at += whole
        for line in new[:whole].splitlines():
            try:
                self.rows.append(json.loads(line))
            except ValueError:
                continue
        return whole > 0

    def series(self, x: str, y: str) -> list[tuple[float, float]]:
        """The points of two fields, where both were measured."""
        return [(row[x], row[y]) for row in self.rows if _number(row.get(x)) and _number(row.get(y))]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def smoothed(points: Sequence[tuple[float, float]], weight: float = 0.95) -> list[tuple[float, float]]:
    """Exponential moving average of the values, corrected for its start as Adam's moments are."""
    average, out = 0.0, []
    for i, (x, y) in enumerate(points, 1):
        average = weight * average + (1 - weight) * y
        out.append((x, average / (1 - weight**i)))
    return out


def thinned(points: Sequence[tuple[float, float]], limit: int = 500) -> list[tuple[float, float]]:
    """At most about `limit` points, evenly chosen, with the last one."""
    stride = max(1, -(-len(points) // limit))
    kept = list(points[::stride])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def read_config(folder: Path) -> dict[str, Any]:
    """The recipe as plain data."""
    value = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or torn."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return out
