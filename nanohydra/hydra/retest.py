"""Spaced re-tests: each fact is asked again when it is due (fsrs), and lessons whose facts fade are taught again.

A fact is asked as its user would ask: in words it was not trained on, routed, without retrieval. It fades when it was known
the last time and is not now; a fact that was never known is the gate's matter, not time's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanohydra.hydra.config import Progress
from nanohydra.hydra.lesson_job import as_fact, taught
from nanohydra.hydra.material import Fact
from nanohydra.store import Lesson, LessonFact, Store

WORDINGS = 3
"""Questions about each fact; it is known when most are answered rightly."""
BATCH, LONGEST_ANSWER = 8, 24
LONGEST_DAYS = 365
"""No fact waits longer than this."""


@dataclass(frozen=True)
class Probe:
    """Facts of one user that are due, to be asked of one base with its lessons' adapters."""

    user_id: int
    facts: tuple[LessonFact, ...]
    lessons: tuple[Lesson, ...]

    def job(self, store: Store) -> dict[str, Any]:
        """What the process that asks is given."""
        first = self.lessons[0]
        return {
            "kind": "retest",
            "base": {"name": first.base_name, "id": first.base_id},
            "lessons": [taught(store, lesson) for lesson in self.lessons],
            "facts": {str(fact.id): as_fact(fact).to_data() for fact in self.facts},
            "seeds": {str(fact.id): asked_before(fact) for fact in self.facts},
            "wordings": WORDINGS,
        }


def due(store: Store, at: datetime, user_id: int | None = None, everything: bool = False) -> list[Probe]:
    """What is to be asked now: facts whose time has come, and those that were never asked. everything: all facts."""
    probes = []
    for user in store.users() if user_id is None else [store.user(user_id)]:
        published = [lesson for lesson in store.lessons(user.id, "published") if lesson.user_id == user.id]
        by_base: dict[str, list[Lesson]] = defaultdict(list)
        for lesson in reversed(published):
            by_base[lesson.base_id].append(lesson)
        for lessons in by_base.values():
            facts = [fact for lesson in lessons for fact in store.facts(user.id, lesson.id)]
            asked = tuple(fact for fact in facts if everything or fact.due is None or fact.due <= at)
            if asked:
                probes.append(Probe(user.id, asked, tuple(lessons)))
    return probes


def asked_before(fact: LessonFact) -> int:
    """How often a fact was asked."""
    return int((fact.card or {}).get("asked", 0))


def record(store: Store, probe: Probe, right: Mapping[str, int], at: datetime) -> list[Lesson]:
    """Keeps what came of a probe (right answers by the facts' ids) and has lessons with fading facts taught again."""
    fading: dict[int, list[int]] = defaultdict(list)
    known = 0
    for fact in probe.facts:
        knows = 2 * right[str(fact.id)] > WORDINGS
        known += knows
        if (fact.card or {}).get("known") and not knows:
            fading[fact.lesson_id].append(fact.id)
        store.set_card(fact.id, reviewed(fact.card, knows, at))
    store.note(probe.user_id, "probed", {"facts": len(probe.facts), "known": known})
    again = [lesson for lesson in probe.lessons if lesson.id in fading]
    for lesson in again:
        store.note(probe.user_id, "faded", {"facts": fading[lesson.id]}, lesson.id)
        seed = int(lesson.settings.get("seed", 0)) + 1
        store.requeue(lesson.id, lesson.user_id, {**lesson.settings, "seed": seed})
    return again


def reviewed(card: Mapping[str, Any] | None, known: bool, at: datetime) -> dict[str, Any]:
    """A fact's card after it was asked: when it is due next, whether it was known, and how often it was asked."""
    from fsrs import Card, Rating, Scheduler

    scheduler = Scheduler(
        learning_steps=(), relearning_steps=(), maximum_interval=LONGEST_DAYS, enable_fuzzing=False
    )  # days, not minutes
    old = Card() if card is None else Card.from_dict(card["fsrs"])
    new, _ = scheduler.review_card(old, Rating.Good if known else Rating.Again, at.astimezone(UTC))
    asked = 1 if card is None else card["asked"] + 1
    return {"fsrs": new.to_dict(), "due": new.due.isoformat(), "known": known, "asked": asked}


def ask(base: Path, job: Mapping[str, Any], tell: Callable[[Progress], bool]) -> dict[str, int]:
    """Asks the facts of a job, in the process that may load torch: how many wordings of each were answered rightly."""
    from nanohydra.agent.embedding import Embedder
    from nanohydra.data.chat import render_chat
    from nanohydra.hydra.router import Router
    from nanohydra.hydra.wordings import exam_questions, right
    from nanohydra.infer.config import SamplingParams
    from nanohydra.jobs.bases import open_engine

    engine = open_engine(str(base), adapters=True)
    assert engine.adapters is not None
    embed = Embedder().embed if Embedder.available() else None
    taught_facts = {one["lesson"]: [Fact.from_data(fact) for fact in one["facts"]] for one in job["lessons"]}
    # The newest adapter that holds a lesson answers for it: its own, or a consolidation's.
    adapters = {held: engine.adapters.load(Path(one["folder"])) for one in job["lessons"] for held in one["holds"]}
    router = Router.over(taught_facts.items(), embed)
    facts = {id: Fact.from_data(fact) for id, fact in job["facts"].items()}
    questions = [
        (id, question)
        for id, fact in facts.items()
        for question in exam_questions(fact, job["wordings"], job["seeds"][id])
    ]
    found: dict[str, int] = dict.fromkeys(facts, 0)
    for at in range(0, len(questions), BATCH):
        batch = questions[at : at + BATCH]
        asked = [router.query(question) for _, question in batch]
        seen = [None] * len(batch) if embed is None else list(embed(asked))
        routes = [router.route(question, (), vector) for (_, question), vector in zip(batch, seen)]
        prompts = [render_chat(engine.tokenizer, [{"role": "user", "content": q}], True)[0] for _, q in batch]
        who = [adapters.get(route.lesson_id or "") for route in routes]
        for (id, _), answer in zip(batch, engine.generate(prompts, SamplingParams(max_tokens=LONGEST_ANSWER), who)):
            found[id] += right(facts[id], answer.text)
        tell(Progress("measure", at + len(batch), len(questions), 0.0))
    return found
