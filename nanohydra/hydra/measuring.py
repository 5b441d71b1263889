"""Measuring a lesson: what it recalls, what it makes up, what was lost; with the adapter forced on, and as routed.

Every question is answered by the base and by the forced adapter once; what the user would meet (routed) is then looked up:
it is the answer of whichever of them the router picks. So the routed figures cost nothing but the routing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nanohydra.data.chat import Message, render_chat
from nanohydra.evals.intervals import Estimate, bootstrap_ratio, wilson
from nanohydra.evals.perplexity import Scored, score_texts
from nanohydra.hydra.config import Measuring
from nanohydra.hydra.material import Fact
from nanohydra.hydra.probes import Probes
from nanohydra.hydra.receipt import EarlierResult, FactResult, Measures, ThreeWays
from nanohydra.hydra.strangers import near_misses
from nanohydra.hydra.wordings import exam_questions, right
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.engine import Engine
from nanohydra.infer.streaming import Completion

Route = Callable[[str], str | None]
"""From a question to the id of the lesson that answers it; None: the base."""
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
    adapters = {each.id: each.adapter for each in (*earlier, lesson)}
    answers = Answers(engine, tell)
    wordings = max(1, min(config.wordings, config.questions // len(lesson.facts)))
    exam = {fact.key: exam_questions(fact, wordings, seed) for fact in (*lesson.facts, *forgotten)}
    taught = {fact.subject for facts in (forgotten, *(each.facts for each in (*earlier, lesson))) for fact in facts}
    strangers = near_misses(lesson.facts, config.strangers, seed, taught, exam=True)
    general = probes.questions[: config.general]
    again = _sampled(earlier, config.earlier)
    asked = {q for questions in exam.values() for q in questions} | {s.question for s in strangers}
    routes = {q: adapters.get(route(q) or "") for q in asked}
    for question in asked:
        for adapter in {None, lesson.adapter, routes[question]}:
            answers.want(question, adapter, config.max_tokens)
    for _, _, question in again:
        for way in (route, route_before):
            answers.want(question, adapters.get(way(question) or ""), config.max_tokens)
    for probe in general:
        content = _content(probe.messages)
        routes[content] = adapters.get(route(content) or "")
        for adapter in {lesson.adapter, routes[content]} - {None}:  # the base is known to be right
            answers.want(content, adapter, 64 if probe.item else config.general_tokens, probe.messages)
    answers.ask()

    facts, gone = (
        tuple(_fact(fact, exam[fact.key], answers, lesson.adapter, routes) for fact in part)
        for part in (lesson.facts, forgotten)
    )
    total = sum(fact.asked for fact in facts)
    recall = ThreeWays(*(wilson(sum(getattr(f, way) for f in facts), total) for way in ("base", "forced", "routed")))

    def falsely(adapter_of: Callable[[str], str | None]) -> Estimate:
        texts = [answers.text(s.question, adapter_of(s.question)) for s in strangers]
        return wilson(sum(any(right(fact, text) for fact in lesson.facts) for text in texts), len(texts))

    false = ThreeWays(falsely(lambda _: None), falsely(lambda _: lesson.adapter), falsely(lambda q: routes[q]))

    def kept(adapter_of: Callable[[str], str | None]) -> Estimate:
        rights = [
            adapter_of(c) is None or probe.right(answers.completion(c, adapter_of(c)))
            for probe in general
            for c in [_content(probe.messages)]
        ]
        return wilson(sum(rights), len(rights))

    kept_ways = ThreeWays(wilson(len(general), len(general)), kept(lambda _: lesson.adapter), kept(lambda c: routes[c]))
    results = tuple(
        _earlier(
            engine,
            each,
            lesson,
            [(f, q) for other, f, q in again if other is each],
            answers,
            adapters,
            route,
            route_before,
        )
        for each in earlier
    )
    drift = text_drift(
        engine, probes.texts, lesson.adapter, lambda text: adapters.get(route(text) or ""), config.text_tokens
    )
    return Measured(Measures(recall, drift, kept_ways, false), facts, results, gone)


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


def _fact(
    fact: Fact, questions: Sequence[str], answers: Answers, adapter: str | None, routes: Mapping[str, str | None]
) -> FactResult:
    counts = [
        sum(right(fact, answers.text(q, adapter_of)) for q, adapter_of in zip(questions, ways, strict=True))
        for ways in ([None] * len(questions), [adapter] * len(questions), [routes[q] for q in questions])
    ]
    return FactResult(fact.key, fact.question, fact.value, len(questions), *counts)


def _sampled(earlier: Sequence[Lesson], count: int) -> list[tuple[Lesson, Fact, str]]:
    """About so many facts of the earlier lessons in all, evenly, at least one of each, with a question never trained on."""
    sampled = []
    for each in earlier:
        most = max(1, -(-count // len(earlier)))
        step = max(1, len(each.facts) // most)
        sampled += [(each, fact, exam_questions(fact, 1, 0)[0]) for fact in each.facts[::step][:most]]
    return sampled


def _earlier(
    engine: Engine,
    each: Lesson,
    lesson: Lesson,
    asked: Sequence[tuple[Fact, str]],
    answers: Answers,
    adapters: Mapping[str, str | None],
    route: Route,
    route_before: Route,
) -> EarlierResult:
    """An earlier lesson, asked again; its drift is that of the perplexity of its own answers."""
    ways = {way: [adapters.get(way(q) or "") for _, q in asked] for way in (route, route_before)}
    rights = {
        way: wilson(sum(right(f, answers.text(q, a)) for (f, q), a in zip(asked, ways[way], strict=True)), len(asked))
        for way in ways
    }
    texts = [fact.answer for fact, _ in asked]
    scored = {name: nats(engine, texts, name) for name in {None, lesson.adapter, *ways[route], *ways[route_before]}}
    before, after = (np.array([scored[a].nats[i] for i, a in enumerate(ways[w])]) for w in (route_before, route))
    base = scored[None]
    drift = ThreeWays(
        rise(base, base.nats),
        rise(base, scored[lesson.adapter].nats),
        rise(Scored(before, base.tokens, base.bytes, base.document), after),
    )
    return EarlierResult(each.id, each.name, rights[route_before], rights[route], drift)


def _content(messages: Sequence[Message]) -> str:
    return str(messages[-1]["content"])
