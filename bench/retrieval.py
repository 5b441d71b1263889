"""Citations of what was just taught: python bench/retrieval.py [--out FILE.json] [--facts 200]

Facts of tinyworld are submitted as statements in the world's own wordings, the way a person pastes notes; nothing is
trained. Each is then asked about in one of the exam's wordings. A citation is right when the quotation (one sentence, or two
where they cannot be told apart) holds the fact's subject and value. Beside it: how often two are quoted; the seconds from the
lesson's being stored to the first answer, with the embedder loaded as in a running server; what the same questions about
unseen people find, which should be nothing; what questions about untold things of the same people find; and how often either
is said to be only the nearest there is. --calibrate fits hydra/quoting.py's numbers on other worlds.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nanohydra.agent.embedding import Embedder
from nanohydra.data.tinyworld.wordings import Wordings
from nanohydra.data.tinyworld.world import NO_PET, Fact, World
from nanohydra.evals.intervals import bootstrap_mean, wilson
from nanohydra.hydra.attributes import Attributes, Embed
from nanohydra.hydra.names import words
from nanohydra.hydra.quoting import Weights, features, mask_words
from nanohydra.hydra.reading import take_in
from nanohydra.hydra.recall import UNSURE, Plan, Recall
from nanohydra.store import Store

CALIBRATED = (22, 23, 24, 25)


def draw(world: World, count: int, rng: random.Random) -> list[Fact]:
    """Facts of people, towns and events."""
    facts = [fact for fact in world.facts() if fact.value != NO_PET]
    return rng.sample(facts, min(count, len(facts)))


def right(plan: Plan, fact: Fact) -> bool:
    """Whether what is quoted tells the fact, and its first source holds it."""
    return tells(plan.quote or "", fact) if plan.sources else False


def tells(text: str, fact: Fact) -> bool:
    """Whether a text holds the fact's subject and value."""
    return all(part.removeprefix("the ").casefold() in text.casefold() for part in (fact.subject, fact.value))


def doubted(plan: Plan) -> bool:
    """Whether what is quoted is said to be only the nearest there is."""
    return (plan.quote or "").startswith(UNSURE)


def teach(store: Store, user_id: int, text: str) -> None:
    """A lesson, as it is stored before any training."""
    material = take_in(text=text, name="notes")
    data = material.to_data()
    for row, fact in zip(data["facts"], material.facts):
        row["key"] = fact.key
    store.add_lesson(user_id, "notes", "base", "base", data, {})


def calibrate(seeds: Sequence[int], count: int) -> None:
    """Fits what each likeness counts for, as a choice among the sentences about whom a question names; then what it counts for
    as evidence that the choice tells what is asked, where half of the questions are about what was not told."""
    from scipy.optimize import minimize

    embed = Embedder().embed
    usual, data, untold = Attributes.usual(embed), [], []
    for seed in seeds:
        rng = random.Random(seed)
        world, wordings = World(seed, people=60), Wordings(seed)
        facts = draw(world, count, rng)
        told = [wordings.statement(fact, rng) for fact in facts]
        others = [fact for fact in draw(world, 10**6, random.Random(seed)) if fact not in facts][:count]
        for fact in [*facts, *others]:
            question = rng.choice(wordings.exam_questions(fact))
            names = frozenset(word.text for word in words(fact.subject)) - {"the"}
            about = [i for i, text in enumerate(told) if names <= {word.text for word in words(text)}]
            texts = [told[i] for i in about]
            if not texts:
                continue
            vectors = embed([mask_words(text, names) for text in [question, *texts]])
            found = features(question, texts, names, vectors, usual)
            if fact in others:
                untold += [] if any(tells(text, fact) for text in texts) else [found]
            else:
                data.append((found, [facts[i] is fact for i in about]))

    def loss(w: np.ndarray) -> float:
        total = 0.0
        for x, y in data:
            z = x @ w - (x @ w).max()
            total -= np.log(np.exp(z[y]).sum() / np.exp(z).sum())
        return float(total / len(data) + 1e-4 * w @ w)

    names = [name for name in Weights.__dataclass_fields__ if name != "bias"]
    w = minimize(loss, np.zeros(len(names))).x
    fits = [x @ w for x, _ in data]
    print("FIT", dict(zip(names, w.round(2))), f"{len(data)} questions")
    print(
        "the right sentence fits best:", np.mean([bool(y[int(np.argmax(z))]) for z, (_, y) in zip(fits, data)]).round(3)
    )
    print("best fits, percentiles 1, 2, 5, 50:", np.percentile([z.max() for z in fits], [1, 2, 5, 50]).round(2))
    right_ones = [x[int(np.argmax(x @ w))] for x, y in data if y[int(np.argmax(x @ w))]]
    x = np.array(right_ones + [x[int(np.argmax(x @ w))] for x in untold])
    x, y = np.hstack([x, np.ones((len(x), 1))]), np.arange(len(x)) < len(right_ones)

    def evidence_loss(v: np.ndarray) -> float:
        return float(np.logaddexp(0, np.where(y, -1, 1) * (x @ v)).mean() + 1e-4 * v @ v)

    v = minimize(evidence_loss, np.zeros(x.shape[1])).x
    print("TOLD", dict(zip([*names, "bias"], v.round(2))), f"{y.sum()} told, {(~y).sum()} not")
    for share in (0.95, 0.9, 0.85, 0.8):
        least = np.quantile(x[y] @ v, 1 - share)
        print(f"{share:.0%} of the told have {least:.2f} or more; of the others {(x[~y] @ v >= least).mean():.0%}")


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


@dataclass
class Asked:
    """One world's answers."""

    told: list[tuple[str, Fact, Plan]] = field(default_factory=list)
    strangers: list[Plan] = field(default_factory=list)
    untold: list[Plan] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    read: int = 0
    """Facts that the rules read; the other sentences stay passages."""


def ask(seed: int, count: int, embed: Embed | None) -> Asked:
    """Tells facts of a world and asks about them, about strangers, and about what was not told."""
    rng = random.Random(seed)
    world, wordings = World(seed, people=60), Wordings(seed)
    facts, found = draw(world, count, rng), Asked()
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{folder}/nanohydra.db")
        recall = Recall(store, "base", 0, embed)
        recall.warm()

        def plan(question: str) -> Plan:
            return recall.plan([{"role": "user", "content": question}], 1)

        teach(store, 1, "\n".join(wordings.statement(fact, rng) for fact in facts))
        found.read = len(store.facts(1))
        for n, fact in enumerate(facts):
            question = rng.choice(wordings.exam_questions(fact))
            found.told.append((question, fact, plan(question)))
            stranger = world.names.session(95, n).name
            found.strangers.append(plan(question.replace(fact.subject, stranger if fact.who else stranger.split()[1])))
        for fact in [fact for fact in draw(world, 10**6, rng) if fact not in facts][:count]:
            answer = plan(rng.choice(wordings.exam_questions(fact)))
            if not right(answer, fact):  # what is told of a husband is told of his wife
                found.untold.append(answer)
        found.seconds = first_answers(store, recall, world, wordings, 10, rng)
    return found


def share(hits: Sequence[bool]) -> dict[str, float]:
    """With its interval."""
    return wilson(sum(hits), len(hits)).to_dict()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, help="where to write the figures as JSON")
    p.add_argument("--facts", type=int, default=200, help="of each world")
    p.add_argument("--seeds", type=int, nargs="+", default=[21, 40, 41, 42, 43], help="a world each")
    p.add_argument("--words-alone", action="store_true", help="without embeddings")
    p.add_argument("--calibrate", action="store_true", help="fit the numbers of quoting instead")
    args = p.parse_args()
    if args.calibrate:
        calibrate(CALIBRATED, args.facts)
        return
    embed = None if args.words_alone else Embedder().embed
    worlds = [ask(seed, args.facts, embed) for seed in args.seeds]
    told = [one for world in worlds for one in world.told]
    untold = [plan for world in worlds for plan in world.untold]
    seconds = [one for world in worlds for one in world.seconds]
    print(*(f"{q} | {fact.value} | {plan.quote}" for q, fact, plan in told if not right(plan, fact)), sep="\n")
    figures = {
        "facts": len(told),
        "facts_read_by_rules": sum(world.read for world in worlds),
        "right_citations": share([right(plan, fact) for _, fact, plan in told]),
        "right_citations_by_world": [sum(right(p, f) for _, f, p in w.told) / len(w.told) for w in worlds],
        "two_sentences": sum((plan.quote or "").count("“") > 1 for _, _, plan in told) / len(told),
        "said_to_be_only_the_nearest": share([doubted(plan) for _, _, plan in told]),
        "citations_for_what_was_not_told": share([plan.mode != "base" for plan in untold]),
        "of_these_not_said_to_be_only_the_nearest": share([p.mode != "base" and not doubted(p) for p in untold]),
        "citations_for_strangers": share([plan.mode != "base" for world in worlds for plan in world.strangers]),
        "seconds_to_first_answer": bootstrap_mean(seconds).to_dict() | {"max": max(seconds)},
        "embeddings": not args.words_alone,
        "seeds": args.seeds,
    }
    print(json.dumps(figures, indent=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
