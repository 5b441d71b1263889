"""Many lessons become one adapter: distilled again from all their facts, with replay and KL to the base, through the same gate.

Adding adapters up does not combine what they know: facts are lost. Mean, TIES and DARE of the old adapters are measured
beside it, so that a receipt shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from nanohydra.adapt.merging import combine
from nanohydra.errors import UserError
from nanohydra.hydra.config import LearnConfig
from nanohydra.hydra.maker import Earlier, Maker, Tell
from nanohydra.hydra.material import Fact
from nanohydra.hydra.measuring import Answers, text_drift
from nanohydra.hydra.receipt import Outcome
from nanohydra.hydra.wordings import exam_questions, right

MERGES = {"mean": "linear", "ties": "ties", "dare": "dare_linear"}
"""By the name in the receipt: the method of adapt/merging.py."""
KL_WEIGHT = 2.5
"""More than a lesson's: many more steps move the base further (docs/log.md)."""
ASKED = 60
"""Facts, in one wording each, that a merge is asked."""
TOKENS = 1500
"""Of general text, on which a merge's drift is measured."""


def consolidate(
    base: str | Path,
    lessons: Sequence[Earlier],
    config: LearnConfig,
    folder: Path,
    tell: Tell = lambda _: True,
    *,
    lesson: str = "consolidated",
) -> Outcome:
    """One adapter for all lessons, oldest first; of facts with one key the newest counts. The time is the config's for each
    lesson. The old adapters are only read.

    Raises UserError for fewer than two lessons with facts, Cancelled where `tell` says so.
    """
    if sum(bool(each.facts) for each in lessons) < 2:
        raise UserError("There are fewer than two lessons to consolidate.")
    facts = tuple({fact.key: fact for each in lessons for fact in each.facts}.values())
    train = config.train if config.train.kl_weight is not None else replace(config.train, kl_weight=KL_WEIGHT)
    longer = replace(config, seconds=config.seconds * len(lessons), train=train)
    maker = Maker(base, facts, longer, folder, tell)
    chats = partial(maker.chats, {fact.subject for fact in facts}, ())
    return maker.make(
        "consolidation", lesson, f"{len(lessons)} lessons", chats, lessons, others=lambda: merges(maker, lessons)
    )


def merges(maker: Maker, lessons: Sequence[Earlier]) -> dict[str, dict[str, float]]:
    """Recall (of a sample of all facts) and drift of the old adapters' mean, TIES and DARE."""
    engine = maker.engine()
    assert engine.adapters is not None
    names = [engine.adapters.load(each.folder) for each in lessons if each.folder is not None]
    if len(names) < 2:
        return {}
    adapters = [engine.adapters[name] for name in names]
    step = -(-len(maker.facts) // ASKED)
    asked: list[tuple[Fact, str]] = [(fact, exam_questions(fact, 1, 0)[0]) for fact in maker.facts[::step]]
    found = {}
    for title, method in MERGES.items():
        generator = torch.Generator().manual_seed(maker.config.seed)
        engine.adapters.add(title, combine(adapters, [1 / len(names)] * len(names), method, generator=generator))
        answers = Answers(engine)
        for _, question in asked:
            answers.want(question, title, maker.config.measure.max_tokens)
        answers.ask()
        rights = sum(right(fact, answers.text(question, title)) for fact, question in asked)
        drift = text_drift(engine, maker.probes.texts, title, lambda _: None, TOKENS).forced
        engine.adapters.remove(title)
        assert drift is not None
        found[title] = {"recall": rights / len(asked), "drift": drift.value, "asked": float(len(asked))}
    return found
