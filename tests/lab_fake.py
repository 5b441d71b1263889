"""A training that takes no time, for tests of the lab: scores are a pure function of the recipe."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any


def execute(recipe: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Goes on from the steps that it finds in `run_dir`, as a trainer does, and counts how often it was started."""
    train = recipe["train"]
    with (run_dir / "starts.txt").open("a") as f:
        f.write("started\n")
    if train.get("broken"):
        raise ValueError("the recipe is broken")
    luck = random.Random(recipe["seed"]).gauss(0, 0.1)  # shared by all variants of a seed
    noise = random.Random(f"{recipe['seed']} {train['lr']} {train['quality']}")
    if train.get("diverges") == recipe["seed"]:
        return {"status": "diverged", "step": 3, "reason": "the loss is inf"}
    curve = run_dir / "metrics.jsonl"
    done = len(curve.read_text().splitlines()) if curve.exists() else 0
    with curve.open("a") as f:
        for step in range(done + 1, 6):
            time.sleep(train.get("step_seconds", 0.0))
            loss = 3 / step + luck - train["quality"]
            f.write(json.dumps({"step": step, "tokens": 10 * step, "loss": loss, "val_loss": loss}) + "\n")
            f.flush()
    with (run_dir / "items.jsonl").open("w") as f:
        for i in range(recipe["eval"]["items"]):
            right = noise.random() < 0.5 + train["quality"]
            f.write(json.dumps({"item": f"q{i}", "recall": int(right)}) + "\n")
    val_loss = 1.5 + luck - train["quality"] + noise.gauss(0, 0.01) + (train["lr"] - 0.01) ** 2
    return {"val_loss": val_loss, "parameters": 1000, "tokens": train.get("tokens", 50), "seconds": 1.0}
