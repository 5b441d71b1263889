"""How a question is answered from what was taught: from an adapter, by quoting, by reading, or by the base alone.

A published lesson that the router is sure of answers from its weights, and its facts are shown as sources; an answer that
does not tell them is overruled by quoting them (checking.py). Otherwise what retrieval finds answers: a small base, which cannot
be trusted to read, gives the taught sentence itself as a quotation; a larger one gets the passages numbered into its prompt.
Otherwise the base answers as if nothing had been taught.

Use:
    recall = Recall(store, base_id, parameters, embed)
    plan = recall.plan(messages, user_id)
    # plan.quote is the whole answer; else generate with plan.adapter, after plan.prompt as a system message,
    # and where not plan.tells(answer), follow plan.instead
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nanohydra.hydra.attributes import Embed, Vectors
from nanohydra.hydra.judging import right
from nanohydra.hydra.lesson_job import as_fact
from nanohydra.hydra.material import Fact
from nanohydra.hydra.memory import Memory, Vectorizer, read_memory
from nanohydra.hydra.quoting import Quote, about, best, closest
from nanohydra.hydra.router import Route, text_of
from nanohydra.store import LessonFact, LessonPassage, Store


@dataclass(frozen=True)
class RecallConfig:
    """What may answer from what was taught."""

    weights: bool = True
    """Whether adapters answer."""

    retrieval: bool = True
    """Whether taught sentences and passages are found and cited."""

    reads_from: int = 1_000_000_000
    """Bases of at least this many parameters read passages in their prompt; smaller ones quote."""

    sources: int = 3
    """How many facts or passages an answer rests on, at most."""

    close: float = 0.2
    """A fact that fits a question less well than the best one by no more than this may be meant as well."""

    sure: float = 0.9
    """A fact that fits a question less than this answers it only where no sentence of a passage fits better."""

    likely: float = 0.5
    """A fact that fits a question less than this is quoted only as the nearest there is."""

    users: int = 64
    """Users whose indexes are kept in memory."""


@dataclass(frozen=True)
class Source:
    """What an answer rests on."""

    n: int
    """Its number in the answer, from 1."""
    lesson_id: int
    kind: Literal["fact", "passage"]
    id: int
    """The fact's or the passage's id in the store."""
    text: str
    """The sentence or passage itself."""
    where: str
    """Where it was taught: the passage's file and page, or the lesson's name."""

    def to_data(self) -> dict[str, Any]:
        """As plain data for an answer's provenance."""
        return dict(vars(self))


@dataclass(frozen=True)
class Plan:
    """How to answer."""

    mode: Literal["weights", "quote", "reading", "base"]
    route: Route
    adapter: str | None = None
    """The name of the adapter to answer with."""
    lesson_id: int | None = None
    """The lesson that the answer comes from, whether from its weights or by retrieval."""
    sources: tuple[Source, ...] = ()
    quote: str | None = None
    """The whole answer, where it is a quotation."""
    prompt: str | None = None
    """What the base should read before the conversation."""
    wanted: tuple[Fact, ...] = ()
    """The facts of which an answer from weights should tell one."""
    instead: Plan | None = None
    """The quotation to give where it does not."""
    overruled: str | None = None
    """The adapter whose answer did not, so that this quotation takes its place."""

    def tells(self, answer: str) -> bool:
        """Whether an answer may stand: there is nothing to hold it against, or it tells what was taught."""
        return self.instead is None or any(right(fact, answer) for fact in self.wanted)

    def to_data(self) -> dict[str, Any]:
        """As plain data for an answer's provenance."""
        return {
            "mode": self.mode,
            "adapter": self.adapter,
            "lesson": self.lesson_id,
            "route": {
                "lesson": self.route.lesson_id,
                "why": self.route.why,
                "evidence": self.route.evidence,
                "score": round(self.route.score, 4),
            },
            "sources": [source.to_data() for source in self.sources],
            **({"overruled": self.overruled} if self.overruled else {}),
        }


PASSAGES = 12
"""Passages about whom a question names that are read sentence by sentence."""
UNSURE = "I may not have been told that. The nearest I know:"
"""What stands before a quotation that may answer another question."""
NOTHING = Route(None, "none", "nothing was taught", 0.0)


class Recall:
    """Plans answers over one base, for every user. Threads may share it."""

    def __init__(
        self,
        store: Store,
        base_id: str,
        parameters: int,
        embed: Embed | None = None,
        config: RecallConfig | None = None,
        cache: Path | None = None,
    ) -> None:
        """Args: embed: texts -> unit vectors (N, 384) float32; without it, words alone are compared. cache: a folder where
        what `warm` makes is kept."""
        self.config = config or RecallConfig()
        self._store, self._base_id, self._parameters = store, base_id, parameters
        self._vectorizer = None if embed is None else Vectorizer(store, embed, cache)
        self._lock = threading.Lock()
        # By user, so that nothing of one can ever be found for another.
        self._memories: OrderedDict[int, Memory] = OrderedDict()

    def warm(self) -> None:
        """Does now what the first plan would wait some seconds for."""
        if self._vectorizer is not None:
            self._vectorizer.usual()

    def plan(
        self,
        messages: Sequence[Mapping[str, Any]],
        user_id: int,
        *,
        weights: bool | None = None,
        retrieval: bool | None = None,
        reads: bool | None = None,
    ) -> Plan:
        """How to answer a conversation, {"role", "content"} each, whose last message is the question.

        Args: weights, retrieval: whether these may answer; reads: whether the base reads passages. None: as configured.
        """
        weights = self.config.weights if weights is None else weights
        retrieval = self.config.retrieval if retrieval is None else retrieval
        if not messages or messages[-1]["role"] != "user" or not (weights or retrieval):
            return Plan("base", NOTHING)
        memory = self.memory(user_id)
        if memory.empty:
            return Plan("base", NOTHING)
        question, context = text_of(messages[-1]), messages[:-1]
        asked = [memory.router.query(question, context), memory.router.resolved(question, context)]
        vectors = None if self._vectorizer is None else self._vectorizer.embed(asked)
        route = memory.router.route(question, context, None if vectors is None else vectors[0])
        facts = [fact for fact in route.facts if isinstance(fact, LessonFact)]
        found: list[Quote] = []
        if retrieval and (not facts or route.score < self.config.sure):
            found = self._sentences(memory, asked[1], None if vectors is None else vectors[1], facts)
        if not found and weights and (plan := self._by_heart(memory, route, facts, retrieval)):
            return plan
        if not retrieval:
            return Plan("base", route)
        reads = self._parameters >= self.config.reads_from if reads is None else reads
        return self._by_retrieval(memory, route, facts, found, reads)

    def memory(self, user_id: int) -> Memory:
        """What a user may have recalled, as it is now."""
        with self._lock:
            before = self._memories.get(user_id)
            if before is None or before.version != self._store.version():
                before = read_memory(self._store, user_id, self._base_id, self._vectorizer, before)
                self._memories[user_id] = before
                while len(self._memories) > self.config.users:
                    self._memories.popitem(last=False)
            self._memories.move_to_end(user_id)
            return before

    def _by_heart(self, memory: Memory, route: Route, facts: Sequence[LessonFact], retrieval: bool) -> Plan | None:
        """An answer from weights, overruled by quoting where retrieval may; None where no adapter holds what is asked."""
        adapter = None if route.lesson_id is None else memory.adapters.get(route.lesson_id)
        if adapter is None:
            return None
        held = [(f, score) for f, score in zip(facts, route.scores) if memory.adapters.get(f.lesson_id) == adapter]
        wanted = tuple(as_fact(fact) for fact, score in held if score >= route.score - self.config.close)
        instead = self._by_retrieval(memory, route, [fact for fact, _ in held], [], False) if retrieval else None
        instead = instead and replace(instead, overruled=adapter)
        sources = self._cited(memory, _first([fact for fact, _ in held]))
        return Plan("weights", route, adapter, sources[0].lesson_id, sources, wanted=wanted, instead=instead)

    def _by_retrieval(
        self, memory: Memory, route: Route, facts: Sequence[LessonFact], found: Sequence[Quote], reads: bool
    ) -> Plan:
        """An answer from the sentences that were found, or else from the facts that fit."""
        numbers = list(dict.fromkeys(quote.passage for quote in found))
        sources = self._cited(memory, [memory.passages[number] for number in numbers] if found else _first(facts))
        if not sources:
            return Plan("base", route)
        if reads:
            return Plan("reading", route, None, sources[0].lesson_id, sources, prompt=_prompt(sources))
        quoted = [(f"“{quote.sentence}”", numbers.index(quote.passage)) for quote in closest(found)]
        quoted = quoted or [(source.text, i) for i, source in enumerate(sources)]
        sources = sources[: 1 + max(i for _, i in quoted)]
        text = " ".join(f"{said} [{i + 1}]" for said, i in quoted)
        sure = found[0].sure if found else route.score >= self.config.likely
        text = text if sure else f"{UNSURE} {text}"
        return Plan("quote", route, None, sources[0].lesson_id, sources, quote=text)

    def _sentences(
        self, memory: Memory, question: str, vector: Vectors | None, facts: Sequence[LessonFact]
    ) -> list[Quote]:
        """The sentences that answer a question, best first; they, or what they go on about, hold every name of it.

        facts: that may answer it too; a sentence must fit the question better than any of them."""
        names, index = memory.router.named(question), memory.index
        if names:
            # A name found word by word is evidence enough to look closer.
            hits = index.search(question, vector, k=PASSAGES, least=0.0, among=memory.holding(names))
        else:
            hits = index.search(question, vector, k=self.config.sources)
        candidates = [(hit.number, sentence) for hit in hits for sentence in about(memory.texts[hit.number], names)]
        embed, usual = (self._vectorizer.embed, self._vectorizer.usual()) if self._vectorizer else (None, None)
        return best(question, candidates, names, embed, usual, [fact.answer for fact in facts])

    def _cited(self, memory: Memory, found: Sequence[LessonFact | LessonPassage]) -> tuple[Source, ...]:
        texts = {passage.id: text for passage, text in zip(memory.passages, memory.texts)}
        sources = []
        for n, row in enumerate(found[: self.config.sources], start=1):
            name = memory.names[row.lesson_id]
            if isinstance(row, LessonFact):
                where = memory.where.get(row.passage_id or 0, name)
                sources.append(Source(n, row.lesson_id, "fact", row.id, row.answer, where))
            else:
                sources.append(Source(n, row.lesson_id, "passage", row.id, texts[row.id], row.source))
        return tuple(sources)


def _first(facts: Sequence[LessonFact]) -> list[LessonFact]:
    """The best fact, if any, with others of the same kind about the same subject: two brothers."""
    return [fact for fact in facts if (fact.subject, fact.attribute) == (facts[0].subject, facts[0].attribute)]


def _prompt(sources: Sequence[Source]) -> str:
    listed = "\n".join(f"[{source.n}] {source.text}" for source in sources)
    return f"Notes:\n{listed}\n\nAnswer from the notes where they hold the answer, and give the number of the note, like [1]."
