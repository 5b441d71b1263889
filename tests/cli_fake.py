"""A stand-in for the process that makes a lesson, for tests of the command line: a real receipt, and a ready adapter.

NANOHYDRA_TEST_ADAPTER names the adapter's folder. A lesson whose setting `seconds` is above 900 takes a minute the first time,
so that it can be interrupted; one whose `seed` is 13 is rejected.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

from nanohydra.evals.intervals import wilson
from nanohydra.files import write_json
from nanohydra.hydra.config import LearnConfig
from nanohydra.hydra.gate import judge, reason
from nanohydra.hydra.material import Fact
from nanohydra.hydra.receipt import FactResult, Measures, Receipt, ThreeWays


def main() -> None:
    folder = Path(sys.argv[1])
    Thread(target=end_with_stdin, daemon=True).start()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    if job["kind"] == "retest":
        right = {id: 0 if "Bellmouth" in fact["value"] else 3 for id, fact in job["facts"].items()}
        write_json(folder / "outcome.json", {"state": "asked", "right": right, "job": job["digest"]})
        return
    marker = Path(os.environ["NANOHYDRA_HOME"]) / "interrupted"
    slow = job["settings"].get("seconds", 0) > 900 and not marker.exists()
    marker.touch()
    for step in range(300 if slow else 2):
        told = {"stage": "train", "step": step, "of": 300, "seconds_left": 60.0, "detail": "loss 1.00"}
        print(json.dumps(told), flush=True)
        time.sleep(0.2 if slow else 0)
    receipt = receipt_of(job)
    if receipt["state"] == "published":
        shutil.copytree(os.environ["NANOHYDRA_TEST_ADAPTER"], folder / "adapter")
    outcome = {"state": receipt["state"], "receipt": receipt, "reason": receipt["reason"], "job": job["digest"]}
    write_json(folder / "outcome.json", outcome)


def receipt_of(job: dict[str, Any]) -> dict[str, Any]:
    """What would have been measured."""
    config = LearnConfig.read(job["settings"])
    parts = [job["material"]] if "material" in job else job["lessons"]
    facts = [Fact.from_data(fact) for part in parts for fact in part["facts"]]
    known = 1 if config.seed == 13 else 4
    none, every = wilson(0, 200), wilson(200, 200)
    recall = ThreeWays(wilson(0, 4 * len(facts)), *2 * [wilson(known * len(facts), 4 * len(facts))])
    measures = Measures(
        recall, ThreeWays(none, none, none), ThreeWays(every, every, every), ThreeWays(none, none, none)
    )
    checks = judge(measures, (), config.gate)
    why = reason(checks)
    return Receipt(
        "consolidation" if "lessons" in job else "lesson",
        "rejected" if why else "published",
        why,
        job["base"],
        None if why else "a" * 64,
        measures,
        tuple(FactResult(f.key, f.question, f.value, 4, 0, known, known) for f in facts),
        (),
        tuple(
            FactResult(f.key, f.question, f.value, 4, 0, 0, 0) for f in map(Fact.from_data, job.get("forgotten", ()))
        ),
        checks,
        (),
        {"train": 1.0, "total": 2.0},
        {"lesson": config.seed},
        {},
        job["settings"],
    ).to_data()


def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
