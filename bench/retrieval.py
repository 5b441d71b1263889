"""Citations of what was just taught: python bench/retrieval.py [--out FILE.json] [--facts 200]

Facts of tinyworld are submitted as statements in the world's own wordings, the way a person pastes notes; nothing is
trained. Each is then asked about in one of the exam's wordings. A citation is right when the quotation (one sentence, or two
where they cannot be told apart) holds the fact's subject and value. Beside it: how often two are quoted; the seconds from the
lesson's being stored to the first answer, with the embedder loaded as in a running server; what the same questions about
unseen people find, which should be nothing; and what questions about untold things of the same people find.
--calibrate fits hydra/quoting.py's numbers on other worlds.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nanohydra.agent.embedding import Embedder
from nanohydra.data.tinyworld.wordings import Wordings
from nanohydra.data.tinyworld.world import NO_PET, Fact, World
from nanohydra.evals.intervals import bootstrap_mean, wilson
from nanohydra.hydra.attributes import Attributes
from nanohydra.hydra.names import words
from nanohydra.hydra.quoting import Weights, features, mask_words
from nanohydra.hydra.reading import take_in
from nanohydra.hydra.recall import Plan, Recall
from nanohydra.store import Store

CALIBRATED = (22, 23, 24, 25)


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


def calibrate(seeds: Sequence[int], count: int) -> None:
    """Fits what each likeness counts for, as a choice among the sentences about whom a question names."""
    from scipy.optimize import minimize

    embed = Embedder().embed
    usual, data = Attributes.usual(embed), []
    for seed in seeds:
        rng = random.Random(seed)
        world, wordings = World(seed, people=60), Wordings(seed)
        facts = draw(world, count, rng)
        told = [wordings.statement(fact, rng) for fact in facts]
        for fact in facts:
            question = rng.choice(wordings.exam_questions(fact))
            names = frozenset(word.text for word in words(fact.subject)) - {"the"}
            about = [i for i, text in enumerate(told) if names <= {word.text for word in words(text)}]
            texts = [told[i] for i in about]
            vectors = embed([mask_words(text, names) for text in [question, *texts]])
            data.append((features(question, texts, names, vectors, usual), [facts[i] is fact for i in about]))

    def loss(w: np.ndarray) -> float:
        total = 0.0
        for x, y in data:
            z = x @ w - (x @ w).max()
            total -= np.log(np.exp(z[y]).sum() / np.exp(z).sum())
        return float(total / len(data) + 1e-4 * w @ w)

    w = minimize(loss, np.zeros(len(vars(Weights())))).x
    fits = [x @ w for x, _ in data]
    print(dict(zip(vars(Weights()), w.round(2))), f"{len(data)} questions")
    print(
        "the right sentence fits best:", np.mean([bool(y[int(np.argmax(z))]) for z, (_, y) in zip(fits, data)]).round(3)
    )
    print("best fits, percentiles 1, 2, 5, 50:", np.percentile([z.max() for z in fits], [1, 2, 5, 50]).round(2))


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
    p.add_argument("--calibrate", action="store_true", help="fit the numbers of quoting instead")
    args = p.parse_args()
    if args.calibrate:
        calibrate(CALIBRATED, args.facts)
        return
    rng = random.Random(args.seed)
    world, wordings = World(args.seed, people=60), Wordings(args.seed)
    facts = draw(world, args.facts, rng)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/nanohydra.db")
        recall = Recall(store, "base", 0, None if args.words_alone else Embedder().embed)
        recall.warm()
        teach(store, 1, "\n".join(wordings.statement(fact, rng) for fact in facts))
        kept = len(store.facts(1))
        hits, found, misses, two = [], [], [], 0
        for fact in facts:
            question = rng.choice(wordings.exam_questions(fact))
            plan = recall.plan([{"role": "user", "content": question}], 1)
            hits.append(right(plan, fact))
            two += (plan.quote or "").count("“") > 1
            if not hits[-1]:
                misses.append(f"{question} | {fact.value} | {plan.quote}")
            stranger = world.names.session(95, len(found)).name
            asked = (
                question.replace(fact.subject, stranger)
                if fact.who
                else question.replace(fact.subject, stranger.split()[1])
            )
            found.append(recall.plan([{"role": "user", "content": asked}], 1).mode != "base")
        untold = [fact for fact in draw(world, 10**6, rng) if fact not in facts][: args.facts]
        asked_of = [rng.choice(wordings.exam_questions(fact)) for fact in untold]
        quoted = [recall.plan([{"role": "user", "content": q}], 1).mode != "base" for q in asked_of]
        seconds = first_answers(store, recall, world, wordings, 10, rng)
    print(*misses, sep="\n")
    figures = {
        "facts": len(facts),
        "facts_read_by_rules": kept,
        "right_citations": wilson(sum(hits), len(hits)).to_dict(),
        "two_sentences": two / len(hits),
        "citations_for_what_was_not_told": wilson(sum(quoted), len(quoted)).to_dict(),
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
