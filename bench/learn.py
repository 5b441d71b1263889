"""Teaching, measured: python bench/learn.py [--facts published] [--part lessons sequence forget] [--out FILE.json]

lessons: 20 facts about 5 invented entities a lesson, each set with several seeds. The facts and the exam's questions are in
learn_facts/, written and frozen before any tuning; settings were found on development.json, published.json gives the figures.
Each lesson goes through `teach`, whose receipt is kept (its own exam has other wordings), and is then asked the frozen
questions as a server would answer them (fp32, hydra/recall.py): by weights alone, by retrieval alone, and by both.
sequence: five lessons one after another, each one's recall at the end, and all of them consolidated.
forget: of every lesson's entities one fact is dropped, the lesson is trained again, and all are asked.

What is measured is written after every step, and a second call goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanohydra.agent.embedding import Embedder
from nanohydra.data.chat import render_chat
from nanohydra.evals.intervals import bootstrap_mean, wilson
from nanohydra.files import write_json
from nanohydra.hydra.config import LearnConfig
from nanohydra.hydra.lesson import Earlier, Outcome, consolidate, teach
from nanohydra.hydra.material import Fact, Material
from nanohydra.hydra.recall import Recall
from nanohydra.hydra.wordings import right
from nanohydra.infer.config import EngineConfig, SamplingParams
from nanohydra.infer.engine import Engine
from nanohydra.jobs.bases import open_engine
from nanohydra.model.hub import base_id, find_base
from nanohydra.store import Store

FACTS = Path(__file__).parent / "learn_facts"
MODES = {"weights": (True, False), "retrieval": (False, True), "both": (True, True)}
"""Whether weights and retrieval may answer."""
Exam = list[tuple[Fact, str]]


class Results:
    """The figures so far, by step; each step is done once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def once(self, name: str, do: Callable[[], Any]) -> Any:
        if name not in self.data:
            self.data[name] = do()
            write_json(self.path, self.data)
            print(name, json.dumps(_short(self.data[name])), flush=True)
        return self.data[name]


def read_lessons(name: str) -> list[tuple[Material, Exam]]:
    """The lessons of a file of facts, each with its frozen questions."""
    lessons = []
    for lesson in json.loads((FACTS / f"{name}.json").read_text(encoding="utf-8"))["lessons"]:
        facts = [Fact(f["subject"], f["attribute"], f["value"], f["question"], f["answer"]) for f in lesson["facts"]]
        exam = [(fact, q) for fact, f in zip(facts, lesson["facts"]) for q in f["exam"]]
        lessons.append((Material(lesson["name"], tuple(facts), ()), exam))
    return lessons


def learn(
    base: str,
    material: Material,
    exam: Exam,
    earlier: Sequence[Earlier],
    config: LearnConfig,
    folder: Path,
    **more: Any,
) -> Outcome:
    """Teaches one lesson; the frozen questions are never trained on."""
    aside = [question for _, question in exam]
    return teach(base, material, earlier, config, folder, aside=aside, **more)


def as_served(base: str, lessons: Sequence[tuple[Material, Exam, str | None]]) -> dict[str, dict[str, Any]]:
    """Recall of the frozen questions of all lessons together, answered as a server does, in each mode; by lesson.

    lessons: with the folder of each one's adapter; None: it has none.
    """
    engine = open_engine(base, config=EngineConfig(max_slots=32, max_seq_len=384, prefix_tokens=2048), adapters=True)
    assert engine.adapters is not None
    id = base_id(base)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/bench.db")
        names = {}
        for n, (material, _, adapter) in enumerate(lessons):
            data = material.to_data()
            for row, fact in zip(data["facts"], material.facts):
                row["key"] = fact.key
            store.add_lesson(1, material.name, id, base, data, {})
            lesson = store.claim("bench", 1e6)
            assert lesson is not None
            made = None if adapter is None else (f"lesson-{n}", adapter, id, f"{n}")
            store.finish(lesson.id, "bench", "rejected" if adapter is None else "published", adapter=made)
            if adapter is not None:
                names[f"lesson-{n}"] = engine.adapters.load(adapter)
        recall = Recall(store, id, engine.model.config.parameters(), Embedder().embed if Embedder.available() else None)
        found: dict[str, dict[str, Any]] = {}
        given: dict[tuple[str, str | None], str] = {}
        for mode, (weights, retrieval) in MODES.items():
            for material, exam, _ in lessons:
                plans = [
                    recall.plan([{"role": "user", "content": q}], 1, weights=weights, retrieval=retrieval)
                    for _, q in exam
                ]
                who = [names.get(plan.adapter or "") for plan in plans]
                wanted = {(q, a) for (_, q), a, plan in zip(exam, who, plans) if plan.quote is None} - given.keys()
                given |= answered(engine, sorted(wanted, key=str))
                texts = [plan.quote or given[q, a] for (_, q), a, plan in zip(exam, who, plans)]
                texts = [t if p.instead is None or p.tells(t) else p.instead.quote or t for t, p in zip(texts, plans)]
                rights = sum(right(fact, text) for (fact, _), text in zip(exam, texts))
                found.setdefault(material.name, {})[mode] = {
                    **wilson(rights, len(exam)).to_dict(),
                    "answered_from_lessons": sum(plan.mode != "base" for plan in plans) / len(exam),
                }
    return found


def answered(engine: Engine, asked: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    """The answers to (question, adapter)."""
    prompts = [
        render_chat(engine.tokenizer, [{"role": "user", "content": q}], add_generation_prompt=True)[0] for q, _ in asked
    ]
    answers = engine.generate(prompts, SamplingParams(max_tokens=24), [adapter for _, adapter in asked])
    return {key: answer.text for key, answer in zip(asked, answers, strict=True)}


def one_lesson(
    out: Results, name: str, base: str, material: Material, exam: Exam, config: LearnConfig, work: Path
) -> None:
    """A lesson alone: its receipt, and then its recall as served."""
    folder = work / name.replace(", ", "-").replace(" ", "-")

    def receipt() -> dict[str, Any]:
        return {"receipt": learn(base, material, exam, (), config, folder).receipt}

    done = out.once(name, receipt)
    adapter = str(folder / "adapter") if done["receipt"]["state"] == "published" else None
    out.once(f"{name}, served", lambda: as_served(base, [(material, exam, adapter)])[material.name])


def summary(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over lessons, with intervals over lessons."""
    receipts = [step["receipt"] for step in steps]
    found: dict[str, Any] = {}
    for measure in ("recall", "drift", "general", "false_attributions"):
        for way in ("forced", "routed"):
            values = [r["measures"][measure][way]["value"] for r in receipts]
            found[f"{measure} {way}"] = bootstrap_mean(values).to_dict()
    for mode in MODES:
        found[f"frozen questions, {mode}"] = bootstrap_mean([s["served"][mode]["value"] for s in steps]).to_dict()
    for unit in ("total", "cpu"):
        found[f"seconds {unit}"] = bootstrap_mean([r["seconds"][unit] for r in receipts]).to_dict()
    found["published"] = sum(r["state"] == "published" for r in receipts) / len(receipts)
    found["lessons"] = len(receipts)
    return found


def sequence(
    base: str, lessons: Sequence[tuple[Material, Exam]], config: LearnConfig, work: Path, out: Results
) -> None:
    """Lessons one after another, then all asked again, then consolidated."""
    earlier: list[Earlier] = []
    taught: list[tuple[Material, Exam, str | None]] = []
    for n, (material, exam) in enumerate(lessons):
        folder = work / f"sequence-{n}"

        def step(material: Material = material, exam: Exam = exam, folder: Path = folder, n: int = n) -> dict[str, Any]:
            outcome = learn(base, material, exam, tuple(earlier), config, folder, lesson=str(n))
            return {"receipt": outcome.receipt, "folder": outcome.folder and folder.name}

        done = out.once(f"sequence {n}", step)
        adapter = folder / "adapter" if done["folder"] else None
        earlier.append(Earlier(str(n), material.name, material.facts, adapter))
        taught.append((material, exam, None if adapter is None else str(adapter)))
    out.once("sequence served", lambda: as_served(base, taught))
    out.once("consolidated", lambda: {"receipt": consolidate(base, earlier, config, work / "consolidated").receipt})


def forget(base: str, material: Material, exam: Exam, config: LearnConfig, folder: Path) -> dict[str, Any]:
    """One fact of each entity is dropped: what is still known of it, and of those that stay."""
    first = {fact.subject: fact for fact in reversed(material.facts)}
    gone = tuple(first.values())
    stays = Material(material.name, tuple(fact for fact in material.facts if fact not in gone), ())
    return {"receipt": learn(base, stays, exam, (), config, folder, forgotten=gone).receipt}


def _short(step: Any) -> Any:
    """What is printed of a step."""
    if not isinstance(step, dict) or "receipt" not in step:
        return step
    receipt = step["receipt"]
    ways = {
        name: {w: e and round(e["value"], 4) for w, e in each.items()} for name, each in receipt["measures"].items()
    }
    served = {mode: round(each["value"], 3) for mode, each in step.get("served", {}).items()}
    return {"state": receipt["state"], **ways, "served": served, "seconds": receipt["seconds"]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--base", default="smollm2")
    p.add_argument("--facts", default="published", choices=["development", "published"])
    p.add_argument(
        "--part", nargs="+", default=["lessons", "sequence", "forget"], choices=["lessons", "sequence", "forget"]
    )
    p.add_argument("--sets", type=int, default=3, help="how many fact sets")
    p.add_argument("--seeds", type=int, default=3, help="how many seeds of each")
    p.add_argument("--seconds", type=float, default=120.0)
    p.add_argument("--work", type=Path, default=None, help="folder for adapters (default: a new temporary one)")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks/learn.json"))
    args = p.parse_args()
    find_base(args.base)
    work = args.work or Path(tempfile.mkdtemp(prefix="learn-"))
    lessons, out = read_lessons(args.facts), Results(args.out)
    config = LearnConfig(seconds=args.seconds)
    out.once("setting", lambda: {"base": args.base, "facts": args.facts, "config": asdict(config)})
    if "lessons" in args.part:
        names = []
        for seed in range(args.seeds):
            for n, (material, exam) in enumerate(lessons[: args.sets]):
                name = f"lesson {n}, seed {seed}"
                names.append(name)
                own = LearnConfig(seed=seed, seconds=args.seconds)
                one_lesson(out, name, args.base, material, exam, own, work)
        out.data.pop("lessons", None)
        out.once("lessons", lambda: summary([{**out.data[n], "served": out.data[f"{n}, served"]} for n in names]))
    if "sequence" in args.part:
        sequence(args.base, lessons, config, work, out)
    if "forget" in args.part:
        for n, (material, exam) in enumerate(lessons[:4]):
            out.once(f"forget {n}", lambda m=material, e=exam: forget(args.base, m, e, config, work / "forget"))


if __name__ == "__main__":
    main()
