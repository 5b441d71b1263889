"""How often questions are sent to the wrong place: python bench/routing.py [--out FILE.json] [--calibrate]

Taught: facts of invented people, towns and events (tinyworld), of things, of the person who asks, and free pairs. Asked: the
exam's wordings of each fact, in sentence case and in lower case; the same about near-miss and unseen names; about what was
not taught of somebody known; 1,000 general prompts (databricks-dolly-15k, read from the mirror). --calibrate fits the
router's numbers on other worlds and other prompts (alpaca_eval) than those that are measured.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanohydra.agent.embedding import Embedder
from nanohydra.data.corpora import rows
from nanohydra.data.tinyworld.config import PERSON_ATTRIBUTES
from nanohydra.data.tinyworld.wordings import Wordings
from nanohydra.data.tinyworld.world import NO_PET, World
from nanohydra.evals.intervals import wilson
from nanohydra.hydra.attributes import Attributes, usual_attributes
from nanohydra.hydra.facts import make_fact
from nanohydra.hydra.likeness import fact_text
from nanohydra.hydra.material import Fact
from nanohydra.hydra.router import Router
from nanohydra.hydra.wordings import exam_questions

MEASURED, CALIBRATED = (11, 12, 13), (1, 2, 3)
ATTRIBUTES = {
    "birthplace": "birthplace",
    "birth_year": "birth year",
    "trade": "job",
    "employer": "employer",
    "pet": "pet",
    "pet_name": "pet's name",
    "friend": "best friend",
    "home": "home",
    "food": "favourite food",
    "instrument": "instrument",
}
THINGS = (
    (
        "the Silver Lantern",
        "founding year",
        "1984",
        ("When was the Silver Lantern founded?", "since when does the silver lantern exist"),
    ),
    ("Project Heron", "deadline", "14 May", ("When is Project Heron due?", "what is the deadline of project heron")),
    ("Glimmerstone", "colour", "violet", ("What colour is Glimmerstone?", "which color does glimmerstone have")),
    ("my sister", "birthday", "3 March", ("When is my sister's birthday?", "what day is my sister's birthday")),
    (
        "the office",
        "opening hours",
        "9 to 5",
        ("What are the opening hours of the office?", "when does the office open"),
    ),
    ("me", "favourite colour", "teal", ("What is my favourite colour?", "which color do i like best")),
    ("me", "home", "Brackwater", ("Where do I live?", "in which town do i live")),
)
PAIRS = (
    (
        "What is the code of the garage door?",
        "The code of the garage door is 4417.",
        ("garage door code?", "Which code opens the garage door?"),
    ),
    (
        "Which key opens the cellar?",
        "The brass key opens the cellar.",
        ("What key do I need for the cellar?", "which key is for the cellar"),
    ),
    (
        "How do I reset the blue pump?",
        "Hold the red switch for ten seconds.",
        ("How is the blue pump reset?", "how can i reset the blue pump"),
    ),
    (
        "On which day is the glass collected?",
        "Glass is collected on Thursdays.",
        ("When is the glass collected?", "what day do they collect the glass"),
    ),
)


@dataclass(frozen=True)
class Case:
    """What a router is asked, and which lesson it should choose (None: the base)."""

    kind: str
    question: str
    lesson: int | None


def lessons(seed: int, people: int = 12, taught: int = 6) -> tuple[list[list[Fact]], list[Case]]:
    """Three lessons' facts and questions about them, in the exam's wordings, and about what they do not tell."""
    world, wordings = World(seed, people=60, attributes=PERSON_ATTRIBUTES), Wordings(seed)
    rng = random.Random(seed)
    told = rng.sample(PERSON_ATTRIBUTES, taught)
    facts: list[list[Fact]] = [[], [], []]
    cases: list[Case] = []
    for i, person in enumerate(rng.sample(list(world.people), people)):
        for fact in world.person_facts(person):
            if fact.value == NO_PET:
                continue
            if fact.attribute in told:
                facts[i % 2].append(make_fact(fact.subject, ATTRIBUTES[fact.attribute], fact.value))
            near = near_misses(person.first, person.last, world, rng)
            for n, question in enumerate(wordings.exam_questions(fact)[:3]):
                lower = question.lower()
                known = fact.attribute in told
                kinds = ("exam wordings", i % 2) if known else ("attributes not taught", None)
                cases += [Case(kinds[0], question, kinds[1]), Case(f"{kinds[0]}, lower case", lower, kinds[1])]
                if known and n == 0:
                    for kind, name in near.items():
                        cases.append(Case(kind, question.replace(person.name, name), None))
                        cases.append(Case(f"{kind}, lower case", question.replace(person.name, name).lower(), None))
    for k in range(people // 2):  # what people are like beside tinyworld, in the wordings of lessons' own exams
        subject = world.names.session(80, k).name
        usual = [name for name in usual_attributes() if name not in ATTRIBUTES.values() and name != "name"]
        for n, attribute in enumerate(rng.sample(usual, 10)):
            fact = make_fact(subject, attribute, rng.choice(world.towns).name)
            if n < 5:
                facts[1].append(fact)
            kind = "a lesson's exam" if n < 5 else "a lesson's exam, attributes not taught"
            cases += [Case(kind, question, 1 if n < 5 else None) for question in exam_questions(fact, 4, seed)]
    for subject, attribute, value, questions in THINGS:
        facts[2].append(make_fact(subject, attribute, value))
        cases += [Case("things and oneself", question, 2) for question in questions]
    for question, answer, questions in PAIRS:
        facts[2].append(Fact("", "", answer, question, answer))
        cases += [Case("free pairs", asked, 2) for asked in questions]
    return facts, cases


def near_misses(first: str, last: str, world: World, rng: random.Random) -> dict[str, str]:
    """Names that are not the given one: with the same first or last name, with one letter changed, wholly unseen."""
    stranger = world.names.session(90, rng.randrange(500))
    place = rng.randrange(1, len(last))
    letter = rng.choice([c for c in "abdefgiklmnoprtuv" if c != last[place]])
    return {
        "same first name": f"{first} {stranger.last}",
        "same last name": f"{stranger.first} {last}",
        "one letter off": f"{first} {last[:place]}{letter}{last[place + 1 :]}",
        "unseen": stranger.name,
    }


def general(dataset: str, split: str, count: int) -> list[str]:
    """Prompts that anybody may give, which are about nothing that was taught and bring no text of their own."""
    found: list[str] = []
    for _, row in rows(dataset, split):
        prompt = str(row["instruction"]).strip()
        if not row.get("context") and 8 <= len(prompt) <= 400:
            found.append(prompt)
        if len(found) == count:
            break
    return found


def cached(embed: Callable[[list[str]], np.ndarray]) -> Callable[[list[str]], np.ndarray]:
    """The same embeddings, each text's made once; the embedder does not see case."""
    known: dict[str, np.ndarray] = {}

    def vectors(texts: list[str]) -> np.ndarray:
        texts = [text.lower() for text in texts]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, embed(new)))
        return np.stack([known[text] for text in texts])

    return vectors


def ask(
    router: Router, cases: Iterable[Case], embed: Callable[[list[str]], np.ndarray] | None
) -> list[tuple[Case, bool]]:
    """Each case with whether it was sent where it belongs."""
    cases = list(cases)
    vectors = embed([router.query(case.question) for case in cases]) if embed else [None] * len(cases)
    return [(case, router.route(case.question, (), v).lesson_id == case.lesson) for case, v in zip(cases, vectors)]


def measure(
    seeds: Sequence[int], prompts: Sequence[str], embed: Callable[[list[str]], np.ndarray] | None
) -> dict[str, object]:
    """The share of errors of each kind of question, with Wilson's interval."""
    wrong: dict[str, list[bool]] = {}
    examples: dict[str, list[str]] = {}
    usual = Attributes.usual(embed) if embed else None
    for seed in seeds:
        facts, cases = lessons(seed)
        router = Router.over(enumerate(facts), embed, usual)
        if seed == seeds[0]:
            cases += [Case("general prompts", prompt, None) for prompt in prompts]
        for case, right in ask(router, cases, embed):
            wrong.setdefault(case.kind, []).append(not right)
            if not right:
                examples.setdefault(case.kind, []).append(case.question)
    for kind, questions in examples.items():
        print(f"  {kind}: {random.Random(0).sample(questions, min(4, len(questions)))}")
    return {kind: wilson(sum(errors), len(errors)).to_dict() for kind, errors in sorted(wrong.items())}


def calibrate(embed: Callable[[list[str]], np.ndarray]) -> None:
    """Fits the numbers of `Fit` and prints them with what thresholds would mean."""
    from scipy.optimize import minimize

    usual, features, labels = Attributes.usual(embed), [], []
    source: list[str] = []
    kinds = {
        "exam wordings": 1,
        "attributes not taught": 0,
        "exam wordings, lower case": 1,
        "attributes not taught, lower case": 0,
        "a lesson's exam": 1,
        "a lesson's exam, attributes not taught": 0,
    }
    for seed in CALIBRATED:
        facts, cases = lessons(seed)
        router = Router.over(enumerate(facts), embed, usual)
        recorded: list[tuple[float, float]] = []
        score = router.fit.score
        object.__setattr__(router.fit, "score", lambda b, u, r=recorded, s=score: r.append((b, u)) or s(b, u))
        wanted = [case for case in cases if case.kind in kinds]
        for case, vector in zip(wanted, embed([router.query(case.question) for case in wanted])):
            recorded.clear()
            router.route(case.question, (), vector)
            if recorded:
                features.append(max(recorded))
                source.append(case.kind)
                labels.append(kinds[case.kind])
    x, y = np.array(features), np.array(labels)
    x = np.stack([x[:, 0], x[:, 0] - x[:, 1], np.ones(len(x))], axis=1)

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return float(np.mean(np.logaddexp(0, z) - y * z) + 1e-4 * w @ w)

    w = minimize(loss, np.zeros(3)).x
    print(len(y), "questions,", int(y.sum()), "about what was taught")
    p = 1 / (1 + np.exp(-x @ w))
    print(f"meaning {w[0]:.2f} margin {w[1]:.2f} bias {-w[2]:.2f}")
    for q in (1, 2, 3, 5, 10):
        t = np.percentile(p[y == 1], q)
        print(
            f"  {q}% of what was taught is lost below {t:.3f}, where {np.mean(p[y == 0] >= t):.3f} of what was not is let in"
        )
    for kind in kinds:
        of = p[np.array(source) == kind]
        print(f"  {kind}: {np.percentile(of, [1, 2, 5, 10, 50, 90, 95]).round(3)}")
    prompts = general("tatsu-lab/alpaca_eval", "eval", 300)
    facts, cases = lessons(CALIBRATED[0])
    texts = embed([fact_text(fact) for fact in facts[2] if not fact.subject or fact.subject == "me"])
    free = [float((texts @ v).max()) for v in embed(prompts)]
    asked = [float((texts @ v).max()) for v in embed([c.question for c in cases if c.kind == "free pairs"])]
    print(
        "free: prompts",
        np.percentile(free, [50, 99, 99.9]).round(3),
        "asked",
        np.percentile(asked, [0, 10, 50]).round(3),
    )


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, help="where to write the figures as JSON")
    p.add_argument("--seeds", type=int, nargs="+", default=MEASURED, help="worlds that are measured")
    p.add_argument("--calibrate", action="store_true", help="fit the router's numbers instead")
    args = p.parse_args()
    embed = cached(Embedder().embed)
    if args.calibrate:
        calibrate(embed)
        return
    prompts = general("databricks/databricks-dolly-15k", "train", 1000)
    figures = {
        "errors": measure(args.seeds, prompts, embed),
        "errors by words alone": measure(args.seeds, prompts, None),
    }
    for title, table in figures.items():
        print(title)
        for kind, e in table.items():
            print(f"  {kind:42} {100 * e['value']:5.1f}% [{100 * e['low']:.1f}, {100 * e['high']:.1f}] of {e['n']}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
