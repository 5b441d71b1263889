"""A run folder as training writes it, for the tests of the web app."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def line(step: int) -> str:
    """A line of metrics.jsonl."""
    row = {"step": step, "tokens": 64 * step, "seconds": step / 10, "loss": 4 / step + 0.1, "lr": 0.1}
    return json.dumps({**row, "grad_norm": 1 / step, "tokens_per_second": 640.0, "progress": step / 100}) + "\n"


def make_run(folder: Path, steps: int = 40, finished: bool = True, lr: float = 0.1) -> Path:
    """A run with metrics, report card, samples and diagnostics."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: toy\ntrain:\n  seed: 1\n  lr: {lr}\n")
    held_out = json.dumps({**json.loads(line(steps)), "val_loss": 0.5}) + "\n"
    (folder / "metrics.jsonl").write_text("".join(line(i) for i in range(1, steps)) + held_out)
    report: dict[str, Any] = {
        "val_loss": {"value": 0.5, "n": 64, "low": 0.4, "high": 0.6},
        "parameters": {"value": 1000, "n": 1, "low": None, "high": None},
        "details": {"seed": 1},
        "samples": [{"prompt": "Who are you?", "answer": "A toy."}],
    }
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "diagnostics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in _diagnostics()))
    if finished:
        (folder / "result.json").write_text("{}")
    return folder


def _diagnostics() -> list[dict[str, Any]]:
    histogram = [0] * 19 + [500, 500] + [0] * 19
    records: list[dict[str, Any]] = [
        {
            "step": step,
            "loss": 4 / step,
            "layers": {"model.layers.0.mlp": {"kind": "relu", "std": 0.1, "dead": 0.0, "histogram": histogram}},
            "parameters": {"model.layers.0.mlp.up_proj.weight": {"gradient": 0.1, "weight": 1.0, "update": 0.01}},
            "attention": {},
            "logits": {},
        }
        for step in (1, 2, 5)
    ]
    return [*records, {"step": 5, "kind": "dead", "where": "layer 0 mlp", "text": "layer 0 mlp: 71% never fire"}]
