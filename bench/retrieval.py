"""Citations of what was just taught: python bench/retrieval.py [--out FILE.json] [--facts 200]

Facts of tinyworld are submitted as statements in the world's own wordings, the way a person pastes notes; nothing is
trained. Each is then asked about in one of the exam's wordings. A citation is right when the quoted sentence holds the fact's
subject and value. Beside it: the seconds from the lesson's being stored to the first answer, with the embedder loaded as in
a running server, and what the same questions about unseen people find, which should be nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from nanohydra.agent.embedding import Embedder
from nanohydra.data.tinyworld.wordings import Wordings
from nanohydra.data.tinyworld.world import NO_PET, Fact, World
from nanohydra.evals.intervals import bootstrap_mean, wilson
from nanohydra.hydra.reading import take_in
from nanohydra.hydra.recall import Plan, Recall
from nanohydra.store import Store


def draw(world: World, count: int, rng: random.Random) -> list[Fact]:
    """Facts of people, towns and events."""
    facts = [fact for fact in world.facts() if fact.value != NO_PET]
    return rng.sample(facts, min(count, len(facts)))


def right(plan: Plan, fact: Fact) -> bool:
    """Whether what is quoted tells the fact, and its first source holds it."""
    text = f"{plan.quote or ''}".casefold() if plan.sources else ""
    return all(part.removeprefix("the ").casefold() in text for part in (fact.subject, fact.value))


def teach(store: Store, user_id: int, text: str) -> None:
    """A lesson, as it is stored before any training."""
    material = take_in(text=text, name="notes")
    data = material.to_data()
    for row, fact in zip(data["facts"], material.facts):
        row["key"] = fact.key
    store.add_lesson(user_id, "notes", "base", "base", data, {})


def first_answers(
    store: Store, recall: Recall, world: World, wordings: Wordings, repeats: int, rng: random.Random
) -> list[float]:
    """Seconds from a lesson of 20 facts being stored until its first question has its plan."""
    seconds = []
    for i in range(repeats):
        people = world.session(i, people=5)
        facts = [fact for fact in world.facts(people) if fact.value != NO_PET][:20]
        teach(store, 1, "\n".join(wordings.statement(fact, rng) for fact in facts))
        start = time.perf_counter()
        recall.plan([{"role": "user", "content": wordings.exam_questions(facts[0])[0]}], 1)
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, help="where to write the figures as JSON")
    p.add_argument("--facts", type=int, default=200)
    p.add_argument("--seed", type=int, default=21)
    p.add_argument("--words-alone", action="store_true", help="without embeddings")
    args = p.parse_args()
    rng = random.Random(args.seed)
    world, wordings = World(args.seed, people=60), Wordings(args.seed)
    facts = draw(world, args.facts, rng)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/nanohydra.db")
        recall = Recall(store, "base", 0, None if args.words_alone else Embedder().embed)
        recall.warm()
        teach(store, 1, "\n".join(wordings.statement(fact, rng) for fact in facts))
        kept = len(store.facts(1))
        hits, found, misses = [], [], []
        for fact in facts:
            question = rng.choice(wordings.exam_questions(fact))
            plan = recall.plan([{"role": "user", "content": question}], 1)
            hits.append(right(plan, fact))
            if not hits[-1]:
                misses.append(f"{question} | {fact.value} | {plan.quote}")
            stranger = world.names.session(95, len(found)).name
            asked = (
                question.replace(fact.subject, stranger)
                if fact.who
                else question.replace(fact.subject, stranger.split()[1])
            )
            found.append(recall.plan([{"role": "user", "content": asked}], 1).mode != "base")
        seconds = first_answers(store, recall, world, wordings, 10, rng)
    print(*misses, sep="\n")
    figures = {
        "facts": len(facts),
        "facts_read_by_rules": kept,
        "right_citations": wilson(sum(hits), len(hits)).to_dict(),
        "citations_for_strangers": wilson(sum(found), len(found)).to_dict(),
        "seconds_to_first_answer": bootstrap_mean(seconds).to_dict() | {"max": max(seconds)},
        "embeddings": not args.words_alone,
        "seed": args.seed,
    }
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
