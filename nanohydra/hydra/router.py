"""Which lesson a question is for, if any. The default is the base: a wrong adapter does more harm than none.

A lesson answers when the question names what one of its facts is about (or goes on about it) and asks for something like
that fact; or names a fact's value and is nearly the fact's own question; or, for facts about nothing nameable, is nearly
the fact's own question. Names are compared word by word (names.py), so a near miss names nobody. What is asked is compared
with names masked out: between sentences that share a name, embeddings see mostly the name.

Use:
    router = Router([Taught("lesson-1", facts, vectors)])                    # oldest lesson first; vectors of fact_text
    vector = embed([router.query(question, earlier)])[0]                     # where there are vectors
    route = router.route(question, earlier, vector)
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nanohydra.hydra.names import Mention, Name, Names, Word, follows_up, name_of, words
from nanohydra.hydra.plain_words import FUNCTION, PLAIN

Vectors = NDArray[np.float32]
MASK = "this one"
"""What stands for a name in texts that are compared by their embeddings."""


class TaughtFact(Protocol):
    """A fact as the router sees it: `material.Fact`, or a row of the store."""

    @property
    def subject(self) -> str: ...
    @property
    def attribute(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def key(self) -> str: ...


@dataclass(frozen=True)
class Taught:
    """A lesson with its current facts."""

    lesson_id: str
    facts: Sequence[TaughtFact]
    vectors: Vectors | None = None
    """(facts, D) unit vectors of each fact's `fact_text`."""


@dataclass(frozen=True)
class Route:
    """Who answers, and why."""

    lesson_id: str | None
    """None: the base."""
    why: Literal["entity", "similar", "none"]
    evidence: str
    """For people: what was recognised."""
    score: float
    """How well the best fact fits the question, in [0, 1]."""
    fact: TaughtFact | None = None
    """The fact that fits best."""
    facts: tuple[TaughtFact, ...] = ()
    """All facts that fit, best first."""


@dataclass(frozen=True)
class Thresholds:
    """How sure the router must be. Calibrated by bench/routing.py; scores are those of `Router`."""

    named: float = 0.5
    """Least fit of a fact whose subject is named in full, or went on about."""
    unsure: float = 0.5
    """... whose subject is named by a first or last name alone, or by a common noun."""
    value: float = 0.8
    """... of which the question names the value alone."""
    free: float = 0.8
    """... that is about nothing nameable."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A fact of a lesson with what is compared."""

    lesson: int
    fact: TaughtFact
    name: Name
    stems: frozenset[str]
    row: int | None
    """Its row in the router's vectors."""


def fact_text(fact: TaughtFact) -> str:
    """The text whose embedding stands for a fact: question and answer with the subject masked."""
    text = f"{fact.question} {fact.answer}"
    return mask(text, Names([fact.subject])) if fact.subject else text


def mask(text: str, names: Names) -> str:
    """A text in which MASK stands for each name."""
    said = words(text)
    mentions = names.find(said)
    if not mentions:
        return text
    inside = {i for mention in mentions for i in range(mention.start, mention.end)}
    starts = {mention.start for mention in mentions}
    parts: list[str] = []
    end = 0
    for i, word in enumerate(said):
        if i in inside:
            parts.append(text[end : word.begin] + MASK if i in starts else "")
            end = word.end
    return "".join(parts) + text[end:]


class Router:
    """Sends questions to lessons. Pure functions of what it was made of."""

    def __init__(self, lessons: Sequence[Taught], thresholds: Thresholds | None = None) -> None:
        """Args: lessons: oldest first: of facts with one key the newest counts."""
        self.lessons = tuple(lessons)
        self.thresholds = thresholds or Thresholds()
        newest = {fact.key: i for i, lesson in enumerate(self.lessons) for fact in lesson.facts}
        blocks: list[Vectors] = []
        self._entries: list[_Entry] = []
        rows = 0
        for i, lesson in enumerate(self.lessons):
            for n, fact in enumerate(lesson.facts):
                if newest[fact.key] != i:
                    continue
                row = None if lesson.vectors is None else rows + n
                self._entries.append(_Entry(i, fact, name_of(fact.subject), _fact_stems(fact), row))
            if lesson.vectors is not None:
                blocks.append(lesson.vectors)
                rows += len(lesson.vectors)
        self._vectors: Vectors | None = np.concatenate(blocks) if blocks else None
        texts = [text for entry in self._entries for text in (entry.fact.question, entry.fact.answer)]
        self.names = Names((entry.fact.subject for entry in self._entries if entry.name), texts)
        self._values = Names((entry.fact.value for entry in self._entries if _tells(entry.fact.value)), texts)
        self._about: dict[Name, list[_Entry]] = defaultdict(list)
        self._valued: dict[Name, list[_Entry]] = defaultdict(list)
        for entry in self._entries:
            self._about[entry.name].append(entry)
            if _tells(entry.fact.value):
                self._valued[name_of(entry.fact.value)].append(entry)

    def query(self, question: str, context: Sequence[Mapping[str, Any]] = ()) -> str:
        """What to embed for `route`: the question with the names of taught subjects masked."""
        return mask(question, self.names)

    def subjects(self, question: str, context: Sequence[Mapping[str, Any]] = ()) -> tuple[list[Name], bool, str]:
        """The taught subjects that a question is about, whether that is sure, and the evidence in words.

        Args: context: the earlier messages of the conversation, {"role", "content"}: what "she" may stand for.
        """
        focus: list[Mention] = []
        for message in context:
            if message["role"] == "user":
                focus = self._focus(words(_text(message)), focus)
        said = words(question)
        mentions = self.names.find(said)
        if mentions:
            sure = all(mention.sure or any(mention.name == earlier.name for earlier in focus) for mention in mentions)
            return _unique(mentions), sure, "names " + _listed(" ".join(_spoken(said, m)) for m in mentions)
        focus = self._focus(said, focus)
        evidence = "goes on about " + _listed(" ".join(mention.name) for mention in focus) if focus else ""
        return _unique(focus), all(mention.sure for mention in focus), evidence

    def route(self, question: str, context: Sequence[Mapping[str, Any]] = (), vector: Vectors | None = None) -> Route:
        """The lesson for a question.

        Args:
            context: the earlier messages of the conversation.
            vector: (D,) the embedding of `query(question, context)`; without it words alone are compared.
        """
        said = words(question)
        about, sure, evidence = self.subjects(question, context)
        limits = self.thresholds
        if about:
            entries = [entry for name in about for entry in self._about[name]]
            inside = {word for name in about for word in name}
            asked = _stems(word for word in said if word.text not in inside)
            return self._best(entries, asked, vector, limits.named if sure else limits.unsure, "entity", evidence)
        asked = _stems(said)
        values = [] if self._unknown(said) else self._values.find(said)
        entries = [entry for name in _unique(values) for entry in self._valued[name]]
        found = self._best(entries, asked, vector, limits.value, "similar", "asks about a taught answer")
        if found.lesson_id is not None:
            return found
        return self._best(self._about[()], asked, vector, limits.free, "similar", "is nearly a taught question")

    def _focus(self, said: Sequence[Word], focus: list[Mention]) -> list[Mention]:
        """What a turn leaves in mind: what it names, or what it goes on about; nothing after a new topic."""
        mentions = self.names.find(said)
        if mentions:
            return mentions
        return focus if focus and follows_up(said) and not self._unknown(said) else []

    def _unknown(self, said: Sequence[Word]) -> bool:
        """Whether words name somebody who was not taught: two capitalised words, or one before any pronoun."""
        known = [*self.names.find(said), *self._values.find(said)]
        pronoun = next((i for i, word in enumerate(said) if follows_up([word])), 0)
        return any(b - a > 1 or b <= pronoun for a, b in self.names.strangers(said, known))

    def _best(
        self,
        entries: Sequence[_Entry],
        asked: frozenset[str],
        vector: Vectors | None,
        threshold: float,
        why: Literal["entity", "similar"],
        evidence: str,
    ) -> Route:
        """The route to the best of `entries`, or to the base where none reaches the threshold."""
        scored = [(self._fit(entry, asked, vector, why), entry.lesson, n) for n, entry in enumerate(entries)]
        scored.sort(reverse=True)
        fitting = [entries[n] for score, _, n in scored if score >= threshold]
        score = scored[0][0] if scored else 0.0
        if not fitting:
            known = f"{evidence}, but nothing like this was taught" if why == "entity" else "nothing taught is like it"
            return Route(None, "none", known, score)
        first = fitting[0]
        facts = tuple(entry.fact for entry in fitting)
        return Route(self.lessons[first.lesson].lesson_id, why, evidence, score, first.fact, facts)

    def _fit(self, entry: _Entry, asked: frozenset[str], vector: Vectors | None, why: str) -> float:
        """How well a fact answers what is asked, in [0, 1]: words in common and, with vectors, likeness of meaning."""
        overlap = len(asked & entry.stems) / len(asked) if asked else 1.0
        if vector is None or entry.row is None or self._vectors is None:
            # Words alone cannot tell "birthplace" from "where ... born": the name must do.
            return 0.5 + 0.5 * overlap if why == "entity" else overlap
        cosine = float(self._vectors[entry.row] @ vector)
        return 1.0 if not asked else 1 / (1 + math.exp(-(12 * (cosine - 0.42) + 2 * (overlap - 0.3))))


_ENDINGS = re.compile(r"(?<=\w{3})(ings?|ed|es|s|e|ion|ions|al|ly|er|ers)$")


def stem(word: str) -> str:
    """A word without its ending, roughly: enough to see "works" in "worked"."""
    return _ENDINGS.sub("", word)


def _stems(said: Sequence[Word] | Any) -> frozenset[str]:
    return frozenset(stem(word.text) for word in said if word.text not in FUNCTION)


def _fact_stems(fact: TaughtFact) -> frozenset[str]:
    inside = set(name_of(fact.subject))
    said = words(f"{fact.question} {fact.answer} {fact.attribute}")
    return _stems(word for word in said if word.text not in inside)


def _tells(value: str) -> bool:
    """Whether a value can be recognised by itself: "Trondheim" and "glass blower", not "blue" or "7"."""
    said = words(value)
    return len(said) > 1 or any(word.capital and len(word.text) > 2 and word.text not in PLAIN for word in said)


def _unique(mentions: Sequence[Mention]) -> list[Name]:
    return list(dict.fromkeys(mention.name for mention in mentions))


def _spoken(said: Sequence[Word], mention: Mention) -> list[str]:
    return [said[i].text for i in range(mention.start, mention.end)]


def _listed(names: Any) -> str:
    return " and ".join(dict.fromkeys(names))


def _text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
