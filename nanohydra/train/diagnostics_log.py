"""What a run's diagnostics.jsonl holds, read without torch: `diagnostics.py` writes it and tells its form."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanohydra.train.diagnostics_rules import Finding

FILE = "diagnostics.jsonl"
BINS = 40
"""Bins of an activation histogram."""
SCALE, REACH = 0.1, math.asinh(100.0 / 0.1)
"""Bins are even in asinh(x / SCALE), from -REACH to REACH: out to |x| = 100."""


@dataclass
class DiagnosticsLog:
    """What a run's diagnostics.jsonl holds, in the order of the steps."""

    records: list[dict[str, Any]]
    findings: list[Finding]

    def series(self, group: str, field: str) -> dict[str, list[tuple[int, float]]]:
        """For each layer or parameter of a record's `group`, the (step, value) pairs of `field` where it was
        measured."""
        found: dict[str, list[tuple[int, float]]] = {}
        for record in self.records:
            for name, values in record[group].items():
                if values.get(field) is not None:
                    found.setdefault(name, []).append((record["step"], values[field]))
        return found


def read_diagnostics(folder: Path, until: float = math.inf) -> DiagnosticsLog:
    """Reads the diagnostics of a run folder up to step `until`; empty where there are none. A torn last line is left
    out."""
    log = DiagnosticsLog([], [])
    path = Path(folder) / FILE
    for line in _json_lines(path) if path.exists() else ():
        if line["step"] > until:
            continue
        if "kind" in line:
            log.findings.append(Finding(**line))
        else:
            log.records.append(line)
    return log


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def histogram_edges() -> list[float]:
    """The BINS + 1 edges of every histogram: fine near zero, coarse far out, the last bins open-ended at |x| = 100."""
    return [SCALE * math.sinh(-REACH + 2 * REACH * i / BINS) for i in range(BINS + 1)]
