"""Measuring a lesson: what it recalls, what it makes up, what was lost; with the adapter forced on, and as routed.

Every question is answered by the base and by the forced adapter once; what the user would meet (routed) is then looked up:
it is the answer of whichever of them the router picks. So the routed figures cost nothing but the routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from nanohydra.data.chat import Message, render_chat
from nanohydra.evals.intervals import Estimate, bootstrap_ratio, wilson
from nanohydra.evals.perplexity import Scored, score_texts
from nanohydra.hydra.config import Measuring
from nanohydra.hydra.material import Fact
from nanohydra.hydra.probes import Probes, Question
from nanohydra.hydra.receipt import EarlierResult, FactResult, Measures, ThreeWays
from nanohydra.hydra.strangers import near_misses
from nanohydra.hydra.wordings import exam_questions, right
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.engine import Engine
from nanohydra.infer.streaming import Completion

Route = Callable[[str], str | None]
"""From a question to the id of the lesson that answers it; None: the base."""
Way = Callable[[str], str | None]
"""From a question to the adapter that answers it; None: the base."""
WINDOW = 256
"""Tokens of context in which perplexity is measured."""


@dataclass(frozen=True)
class Lesson:
    """A lesson as it is measured. adapter: its name in the engine; None: it has none, so the base answers."""

    id: str
    name: str
    facts: Sequence[Fact]
    adapter: str | None


@dataclass(frozen=True)
class Measured:
    """What was measured."""

    measures: Measures
    facts: tuple[FactResult, ...]
    earlier: tuple[EarlierResult, ...]
    forgotten: tuple[FactResult, ...]


class Answers:
    """What each adapter (None: the base) answers to each question; asked once, greedily."""

    def __init__(self, engine: Engine, tell: Callable[[int, int], None] = lambda done, of: None) -> None:
        self.engine, self.tell = engine, tell
        self._wanted: dict[tuple[str, str | None], tuple[list[Message], int]] = {}
        self._given: dict[tuple[str, str | None], Completion] = {}

    def want(self, key: str, adapter: str | None, max_tokens: int, messages: list[Message] | None = None) -> None:
        """Notes a question (by itself, or standing for messages) to be asked."""
        self._wanted[key, adapter] = (messages or [{"role": "user", "content": key}], max_tokens)

    def ask(self) -> None:
        """Asks what was noted. Requests of one adapter run together, which is faster than mixing them."""
        keys = sorted(self._wanted, key=lambda key: (key[1] is not None, key[1] or "", len(key[0])))
        done = 0
        for adapter in dict.fromkeys(adapter for _, adapter in keys):
            own = [key for key in keys if key[1] == adapter]
            for start in range(0, len(own), 128):
                part = own[start : start + 128]
                wanted = [self._wanted[key] for key in part]
                prompts = [render_chat(self.engine.tokenizer, m, add_generation_prompt=True)[0] for m, _ in wanted]
                params = [SamplingParams(max_tokens=most) for _, most in wanted]
                self._given.update(zip(part, self.engine.generate(prompts, params, adapter), strict=True))
                done += len(part)
                self.tell(done, len(keys))
        self._wanted.clear()

    def completion(self, key: str, adapter: str | None) -> Completion:
        """The answer to a question."""
        return self._given[key, adapter]

    def text(self, key: str, adapter: str | None) -> str:
        """The answer's text."""
        return self._given[key, adapter].text


def measure(
    engine: Engine,
    lesson: Lesson,
    earlier: Sequence[Lesson],
    route: Route,
    route_before: Route,
    probes: Probes,
    config: Measuring,
    seed: int,
    tell: Callable[[int, int], None],
    forgotten: Sequence[Fact] = (),
) -> Measured:
    """Measures a lesson whose adapter, and those of the earlier lessons, are attached to the engine.

    Args:
        route, route_before: the router that knows this lesson too, and the one that knows only the earlier ones.
        tell: called with answers given and wanted; may raise to stop.
        forgotten: facts that the lesson once had.
    """
    exam = _Exam(lesson, earlier, route, route_before, Answers(engine, tell))
    wordings = max(1, min(config.wordings, config.questions // len(lesson.facts)))
    facts = {fact.key: exam_questions(fact, wordings, seed) for fact in (*lesson.facts, *forgotten)}
    taught = {fact.subject for part in (forgotten, *(each.facts for each in (*earlier, lesson))) for fact in part}
    strangers = [s.question for s in near_misses(lesson.facts, config.strangers, seed, taught, exam=True)]
    general = probes.questions[: config.general]
    again = _sampled(earlier, config.earlier)
    exam.want({question for questions in (*facts.values(), strangers) for question in questions}, config.max_tokens)
    exam.want_again([question for _, _, question in again], config.max_tokens)
    exam.want_general(general, config.general_tokens)
    exam.answers.ask()

    results, gone = (tuple(exam.fact(fact, facts[fact.key]) for fact in part) for part in (lesson.facts, forgotten))
    asked = sum(fact.asked for fact in results)
    recall = ThreeWays(*(wilson(sum(getattr(f, way) for f in results), asked) for way in ("base", "forced", "routed")))
    drift = text_drift(engine, probes.texts, lesson.adapter, exam.who, config.text_tokens)
    measures = Measures(recall, drift, exam.kept(general), exam.false(strangers))
    return Measured(measures, results, tuple(exam.earlier_one(each, again) for each in earlier), gone)


class _Exam:
    """One lesson's questions, and who answers each: the base, the lesson's adapter, or whom a router picks."""

    def __init__(
        self, lesson: Lesson, earlier: Sequence[Lesson], route: Route, route_before: Route, answers: Answers
    ) -> None:
        self.lesson, self.answers, self.engine = lesson, answers, answers.engine
        self._adapters = {each.id: each.adapter for each in (*earlier, lesson)}
        self._route, self._route_before = route, route_before

    def who(self, question: str) -> str | None:
        """The adapter that answers, now that the lesson is known too."""
        return self._adapters.get(self._route(question) or "")

    def who_before(self, question: str) -> str | None:
        """The adapter that answered before the lesson."""
        return self._adapters.get(self._route_before(question) or "")

    def want(self, questions: Collection[str], max_tokens: int) -> None:
        """Questions for the base, the lesson's adapter and whom the router picks."""
        for question in questions:
            for adapter in {None, self.lesson.adapter, self.who(question)}:
                self.answers.want(question, adapter, max_tokens)

    def want_again(self, questions: Sequence[str], max_tokens: int) -> None:
        """Questions about earlier lessons."""
        for question in questions:
            for adapter in {self.who(question), self.who_before(question)}:
                self.answers.want(question, adapter, max_tokens)

    def want_general(self, general: Sequence[Question], max_tokens: int) -> None:
        """General questions; the base is known to be right."""
        for probe in general:
            for adapter in {self.lesson.adapter, self.who(probe.text)} - {None}:
                self.answers.want(probe.text, adapter, 64 if probe.item else max_tokens, probe.messages)

    def fact(self, fact: Fact, questions: Sequence[str]) -> FactResult:
        """How often a fact was told, three ways."""
        ways: tuple[Way, ...] = (_nobody, self._forced, self.who)
        counts = [sum(right(fact, self.answers.text(q, way(q))) for q in questions) for way in ways]
        return FactResult(fact.key, fact.question, fact.value, len(questions), *counts)

    def false(self, strangers: Sequence[str]) -> ThreeWays:
        """How often a stranger was given a taught value."""
        return ThreeWays(*(self._falsely(strangers, way) for way in (_nobody, self._forced, self.who)))

    def kept(self, general: Sequence[Question]) -> ThreeWays:
        """How many of the general questions are still answered rightly."""
        whole = wilson(len(general), len(general))
        return ThreeWays(whole, *(self._kept(general, way) for way in (self._forced, self.who)))

    def earlier_one(self, each: Lesson, again: Sequence[tuple[Lesson, Fact, str]]) -> EarlierResult:
        """An earlier lesson, asked again; its drift is that of the perplexity of its own answers."""
        asked = [(fact, question) for other, fact, question in again if other is each]
        before, after = ([way(q) for _, q in asked] for way in (self.who_before, self.who))
        recall_before, recall = (
            wilson(sum(right(f, self.answers.text(q, a)) for (f, q), a in zip(asked, who, strict=True)), len(asked))
            for who in (before, after)
        )
        texts = [fact.answer for fact, _ in asked]
        scored = {name: nats(self.engine, texts, name) for name in {None, self.lesson.adapter, *before, *after}}
        old, new = (np.array([scored[a].nats[i] for i, a in enumerate(who)]) for who in (before, after))
        base = scored[None]
        drift = ThreeWays(
            rise(base, base.nats),
            rise(base, scored[self.lesson.adapter].nats),
            rise(Scored(old, base.tokens, base.bytes, base.document), new),
        )
        return EarlierResult(each.id, each.name, recall_before, recall, drift)

    def _forced(self, question: str) -> str | None:
        return self.lesson.adapter

    def _falsely(self, strangers: Sequence[str], way: Way) -> Estimate:
        texts = [self.answers.text(question, way(question)) for question in strangers]
        return wilson(sum(any(right(fact, text) for fact in self.lesson.facts) for text in texts), len(texts))

    def _kept(self, general: Sequence[Question], way: Way) -> Estimate:
        who = [(probe, way(probe.text)) for probe in general]
        rights = [a is None or probe.right(self.answers.completion(probe.text, a)) for probe, a in who]
        return wilson(sum(rights), len(rights))


def _nobody(question: str) -> str | None:
    return None


def text_drift(
    engine: Engine, texts: Sequence[str], adapter: str | None, route: Callable[[str], str | None], tokens: int
) -> ThreeWays:
    """Relative rise of perplexity against the base on about so many tokens of texts, forced and routed (by document)."""
    texts = _of_length(texts, tokens)
    base = nats(engine, texts, None)
    routes = [route(text) for text in texts]
    by_adapter = {None: base, **{name: nats(engine, texts, name) for name in {adapter, *routes} - {None}}}
    routed = np.array([by_adapter[name].nats[i] for i, name in enumerate(routes)])
    return ThreeWays(rise(base, base.nats), rise(base, by_adapter[adapter].nats), rise(base, routed))


def nats(engine: Engine, texts: Sequence[str], adapter: str | None) -> Scored:
    """What texts cost with an adapter, one window each (a text is cut where its window ends)."""
    assert engine.adapters is not None
    short = [engine.tokenizer.decode(engine.tokenizer.encode(text)[:WINDOW]) for text in texts]
    with engine.adapters.using(adapter):
        return score_texts(engine.model, engine.tokenizer, short, seq_len=2 * WINDOW, batch_size=4)


def rise(before: Scored, after: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Estimate:
    """The relative rise of perplexity from the nats before to those after, on the same windows; 0.01 is 1%."""
    log = bootstrap_ratio(after - before.nats, before.tokens)
    return Estimate(math.expm1(log.value), log.n, math.expm1(log.low), math.expm1(log.high))


def _of_length(texts: Sequence[str], tokens: int) -> list[str]:
    """The first texts that hold so many tokens, at four characters a token."""
    sizes = np.cumsum([len(text) / 4 for text in texts])
    return list(texts[: int(np.searchsorted(sizes, tokens)) + 1])


def _sampled(earlier: Sequence[Lesson], count: int) -> list[tuple[Lesson, Fact, str]]:
    """About so many facts of the earlier lessons in all, evenly, at least one of each, with a question never trained on."""
    sampled = []
    for each in earlier:
        most = max(1, -(-count // len(earlier)))
        step = max(1, len(each.facts) // most)
        sampled += [(each, fact, exam_questions(fact, 1, 0)[0]) for fact in each.facts[::step][:most]]
    return sampled
