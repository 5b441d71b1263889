"""Lessons as teaching leaves them, with receipts that were not measured: for the tests of the web app.

    python tests/web_lessons.py FOLDER        what stands in for the process that makes a lesson

It waits for the file "go" in the home folder, and puts what is taught into the adapter's files.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

from nanohydra.evals.intervals import Estimate, wilson
from nanohydra.hydra.config import Gate, LearnConfig
from nanohydra.hydra.gate import judge, reason
from nanohydra.hydra.material import Fact
from nanohydra.hydra.receipt import Attempt, EarlierResult, FactResult, Measures, Receipt, ThreeWays
from nanohydra.store import Lesson, Store

BASE = "b" * 64
TEXT = "Mira Solberg was born in Trondheim. Her favourite tea is fennel tea."
FACTS = (
    Fact(
        "Mira Solberg",
        "birthplace",
        "Trondheim",
        "Where was Mira Solberg born?",
        "Mira Solberg was born in Trondheim.",
        0,
    ),
    Fact(
        "Mira Solberg", "tea", "fennel", "What is Mira Solberg's favourite tea?", "Her favourite tea is fennel tea.", 0
    ),
)


def share(right: int, of: int) -> Estimate:
    """A share with its interval."""
    return wilson(right, of)


def point(value: float) -> Estimate:
    """A value without one."""
    return Estimate(value, 4096, value, value)


def receipt(facts: tuple[Fact, ...], earlier: dict[str, tuple[str, int]], right: int = 4) -> dict[str, Any]:
    """A receipt: `right` of 4 wordings of each fact were answered. earlier: lesson -> its name, right of 8."""
    asked = 4 * len(facts)
    measures = Measures(
        ThreeWays(share(0, asked), share(right * len(facts), asked), share(right * len(facts), asked)),
        ThreeWays(point(0.0), point(0.021), point(0.001)),
        ThreeWays(share(200, 200), share(150, 200), share(199, 200)),
        ThreeWays(share(0, 100), share(30, 100), share(2, 100)),
    )
    results = tuple(
        EarlierResult(lesson, name, share(8, 8), share(known, 8), ThreeWays(point(0.0), point(0.01), point(0.0)))
        for lesson, (name, known) in earlier.items()
    )
    checks = judge(measures, results, Gate())
    passed = all(check.passed for check in checks)
    return Receipt(
        kind="lesson",
        state="published" if passed else "rejected",
        reason=reason(checks),
        base={"name": "tiny", "id": BASE},
        adapter="c" * 64 if passed else None,
        measures=measures,
        facts=tuple(FactResult(f.key, f.question, f.value, 4, 0, right, right) for f in facts),
        forgotten=(),
        earlier=results,
        checks=checks,
        attempts=(Attempt({"steps": 80}, measures, passed, 60.0),),
        seconds={"prepare": 4.0, "train": 60.0, "measure": 20.0, "total": 84.0, "cpu": 150.0},
        seeds={"lesson": 0},
        hashes={"material": "a" * 64},
        settings={"gate": vars(Gate()), "seconds": LearnConfig().seconds},
    ).to_data()


def add(store: Store, user_id: int, name: str, facts: tuple[Fact, ...], text: str = "") -> Lesson:
    """A lesson that waits; facts that contradict earlier ones take their place."""
    known = {fact.key: fact.id for fact in store.facts(user_id)}
    rows = [{**fact.to_data(), "key": fact.key, "supersedes": known.get(fact.key)} for fact in facts]
    passages = [{"number": 0, "text": text, "source": "pasted text"}] if text else []
    rows = rows if text else [{**row, "passage": None} for row in rows]
    lesson, _ = store.add_lesson(user_id, name, BASE, "tiny", {"facts": rows, "passages": passages}, {"seconds": 120.0})
    return lesson


def end(store: Store, lesson: Lesson, made: dict[str, Any]) -> Lesson:
    """The lesson's worker, which comes to an end at once."""
    claimed = store.claim("test", 60.0)
    assert claimed is not None
    assert claimed.id == lesson.id
    adapter = None
    if made["state"] == "published":
        adapter = (f"lesson-{lesson.id}", str(Path("adapters") / f"lesson-{lesson.id}"), BASE, "c" * 64)
    assert store.finish(lesson.id, "test", made["state"], made, made["reason"] or None, adapter)
    return store.lesson(lesson.id, lesson.user_id)


def taught(store: Store, user_id: int) -> tuple[Lesson, Lesson, Lesson]:
    """Three lessons: two published, the second of which knows one thing otherwise, and one rejected."""
    first = end(store, add(store, user_id, "About Mira", FACTS, TEXT), receipt(FACTS, {}))
    move = (Fact("Mira Solberg", "birthplace", "Bodø", FACTS[0].question, "Mira Solberg was born in Bodø."),)
    second = end(store, add(store, user_id, "A correction", move), receipt(move, {str(first.id): ("About Mira", 8)}))
    third = (
        Fact(
            "the North Mill", "opening", "1902", "When was the North Mill opened?", "The North Mill was opened in 1902."
        ),
    )
    last = end(store, add(store, user_id, "The mill", third), receipt(third, {}, right=1))
    return first, second, last


def main() -> None:
    folder, home = Path(sys.argv[1]), Path(os.environ["NANOHYDRA_HOME"])
    Thread(target=_end_with_stdin, daemon=True).start()
    job = json.loads((folder / "job.json").read_text())
    step = 0
    while not (home / "go").exists():
        step += 1
        progress = {"stage": "train", "step": min(step, 90), "of": 100, "seconds_left": 90.0, "detail": ""}
        print(json.dumps(progress), flush=True)
        time.sleep(0.2)
    facts = tuple(map(Fact.from_data, job["material"]["facts"]))
    earlier = {one["lesson"]: (one["name"], 8) for one in job["earlier"]}
    made = receipt(facts, earlier, right=1 if "hard" in job["material"]["name"] else 4)
    if made["state"] == "published":
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_config.json").write_text("{}")
        (folder / "adapter" / "adapter_model.safetensors").write_text(json.dumps(job["material"]))
    outcome = {"state": made["state"], "receipt": made, "reason": made["reason"], "job": job["digest"]}
    (folder / "outcome.tmp").write_text(json.dumps(outcome))
    (folder / "outcome.tmp").replace(folder / "outcome.json")


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
