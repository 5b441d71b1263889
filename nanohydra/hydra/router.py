"""Which lesson a question is for, if any. The default is the base: a wrong adapter does more harm than none.

A lesson answers when the question names what one of its facts is about (or goes on about it) and asks for something like
that fact; or names a fact's value and asks whose it is; or, for facts about nothing nameable, is nearly the fact's own
question. Names are compared word by word (names.py), so a near miss names nobody. What is asked is compared
with names masked out: between sentences that share a name, embeddings see mostly the name.

Use:
    router = Router([Taught("lesson-1", facts, vectors)])                    # oldest lesson first; vectors of fact_text
    vector = embed([router.query(question, earlier)])[0]                     # where there are vectors
    route = router.route(question, earlier, vector)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nanohydra.hydra.attributes import Attributes, Embed, canonical
from nanohydra.hydra.likeness import (
    PRONOUN,
    SELF,
    SPEAKER,
    SPEAKERS,
    TaughtFact,
    dice,
    fact_stems,
    fact_text,
    mask,
    masked,
    overlap,
    stems,
    tells,
)
from nanohydra.hydra.names import Mention, Name, Names, Word, follows_up, name_of, words
from nanohydra.hydra.plain_words import FIRST_PERSON

Vectors = NDArray[np.float32]
LessonId = int | str
Context = Sequence[Mapping[str, Any]]
"""The earlier messages of a conversation: {"role", "content"}."""


@dataclass(frozen=True)
class Taught:
    """A lesson with its current facts."""

    lesson_id: LessonId
    facts: Sequence[TaughtFact]
    vectors: Vectors | None = None
    """(facts, D) unit vectors of each fact's `fact_text`."""


@dataclass(frozen=True)
class Route:
    """Who answers, and why."""

    lesson_id: LessonId | None
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
    scores: tuple[float, ...] = ()
    """How well each of them fits."""


@dataclass(frozen=True)
class Fit:
    """How likeness becomes a score: logistic(meaning * b + margin * (b - u) - bias), where b is the cosine with the fact or
    its attribute's nearest wording, and u with the nearest wording of anything not taught about the subject. Fitted by
    bench/routing.py; words in common add nothing to that."""

    meaning: float = 2.1
    margin: float = 17.7
    bias: float = -0.2

    def score(self, likeness: float, rival: float) -> float:
        """In [0, 1]."""
        return 1 / (1 + math.exp(self.bias - self.meaning * likeness - self.margin * (likeness - rival)))


@dataclass(frozen=True)
class Thresholds:
    """How sure the router must be; calibrated by bench/routing.py."""

    named: float = 0.15
    """Least fit of a fact whose subject is named in full, or went on about."""
    unsure: float = 0.55
    """... whose subject is named by a first or last name alone, or by a common noun; or is the person who asks."""
    own: float = 0.7
    """Least likeness of a fact about the person who asks: "I" stands in questions about anything."""
    valued: float = 0.45
    """Least likeness of a fact whose value alone is named: "Who was born in Oslo?"."""
    free: float = 0.6
    """Least cosine with a fact about nothing nameable."""
    free_words: float = 0.75
    """The same where there are no vectors: the least overlap of the two's words (Dice 1945)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A fact of a lesson with what is compared."""

    lesson: int
    fact: TaughtFact
    name: Name
    attributes: frozenset[str]
    """What it tells, by the names of `Attributes`."""
    stems: frozenset[str]
    row: int | None
    """Its row in the router's vectors."""


class Router:
    """Sends questions to lessons. Pure functions of what it was made of."""

    def __init__(
        self,
        lessons: Sequence[Taught],
        attributes: Attributes | None = None,
        thresholds: Thresholds | None = None,
        fit: Fit | None = None,
    ) -> None:
        """Args: lessons: oldest first: of facts with one key the newest counts. attributes: those of the facts included."""
        self.lessons = tuple(lessons)
        self.thresholds = thresholds or Thresholds()
        self.fit = fit or Fit()
        self._attributes = attributes
        newest = {fact.key: i for i, lesson in enumerate(self.lessons) for fact in lesson.facts}
        pets = {
            (fact.subject, f"{fact.value}'s name")
            for one in self.lessons
            for fact in one.facts
            if fact.attribute == "pet"
        }
        blocks: list[Vectors] = []
        self._entries: list[_Entry] = []
        rows = 0
        for i, lesson in enumerate(self.lessons):
            for n, fact in enumerate(lesson.facts):
                if newest[fact.key] != i:
                    continue
                row = None if lesson.vectors is None else rows + n
                name = SELF if fact.subject in SPEAKERS else name_of(fact.subject)
                told = frozenset({canonical(fact.attribute)} if fact.attribute else ())
                if (fact.subject, fact.attribute) in pets:  # "her pet's name?", where the tortoise's was taught
                    told |= {"pet's name"}
                self._entries.append(_Entry(i, fact, name, told, fact_stems(fact), row))
            if lesson.vectors is not None:
                blocks.append(lesson.vectors)
                rows += len(lesson.vectors)
        self._vectors: Vectors | None = np.concatenate(blocks) if blocks else None
        texts = [text for entry in self._entries for text in (entry.fact.question, entry.fact.answer)]
        self.names = Names((entry.fact.subject for entry in self._entries if entry.name not in ((), SELF)), texts)
        self._values = Names((entry.fact.value for entry in self._entries if tells(entry.fact.value)), texts)
        self._about: dict[Name, list[_Entry]] = defaultdict(list)
        self._valued: dict[Name, list[_Entry]] = defaultdict(list)
        for entry in self._entries:
            self._about[entry.name].append(entry)
            if tells(entry.fact.value):
                self._valued[name_of(entry.fact.value)].append(entry)

    @classmethod
    def over(
        cls,
        lessons: Iterable[tuple[LessonId, Sequence[TaughtFact]]],
        embed: Embed | None,
        usual: Attributes | None = None,
    ) -> Router:
        """A router over (id, facts), oldest first, with all that `embed` can give. usual: Attributes.usual, if at hand."""
        listed = [(number, list(facts)) for number, facts in lessons]
        if embed is None:
            return cls([Taught(number, facts) for number, facts in listed])
        attributes = (usual or Attributes.usual(embed)).plus((f.attribute for _, facts in listed for f in facts), embed)
        vectors = [embed([fact_text(fact) for fact in facts]) if facts else None for _, facts in listed]
        return cls([Taught(number, facts, v) for (number, facts), v in zip(listed, vectors)], attributes)

    def query(self, question: str, context: Context = ()) -> str:
        """What to embed for `route`: the question with the names of taught subjects, or what stands for them, masked."""
        said = words(question)
        mentions = self.names.find(said)
        if mentions:
            return mask(question, mentions, said)
        if self.subjects(question, context)[0]:
            return masked(PRONOUN, question)
        if valued := self._of_values(said):
            return mask(question, valued, said)
        return masked(SPEAKER, question) if SELF in self._about else question

    def resolved(self, question: str, context: Context = ()) -> str:
        """The question with the subject that it goes on about before it: "Mira Solberg: And where does she work?"."""
        names = [] if self.names.find(question) else self.subjects(question, context)[0]
        return f"{' and '.join(self._about[name][0].fact.subject for name in names)}: {question}" if names else question

    def named(self, question: str) -> frozenset[str]:
        """The folded words of all names in a question, of those taught and of strangers."""
        said = words(question)
        mentions = self.names.find(said)
        runs = self.names.strangers(said, mentions)
        return frozenset(said[i].text for a, b in [(m.start, m.end) for m in mentions] + runs for i in range(a, b))

    def subjects(self, question: str, context: Context = ()) -> tuple[list[Name], bool, str]:
        """The taught subjects that a question is about, whether that is sure, and the evidence in words."""
        focus: list[Mention] = []
        for message in context:
            if message["role"] == "user":
                focus = self._focus(words(text_of(message)), focus)
        said = words(question)
        mentions = self.names.find(said)
        if mentions:
            sure = all(mention.sure or any(mention.name == earlier.name for earlier in focus) for mention in mentions)
            return _unique(mentions), sure, "names " + self._listed(mentions)
        focus = self._focus(said, focus)
        return _unique(focus), all(m.sure for m in focus), f"goes on about {self._listed(focus)}" if focus else ""

    def route(self, question: str, context: Context = (), vector: Vectors | None = None) -> Route:
        """The lesson for a question.

        Args:
            context: the earlier messages of the conversation: what "she" may stand for.
            vector: (D,) the embedding of `query(question, context)`; without it words alone are compared.
        """
        said = words(question)
        about, sure, evidence = self.subjects(question, context)
        if about:
            return self._named(about, sure, evidence, said, vector)
        own = self._about.get(SELF, ()) if any(word.text in FIRST_PERSON for word in said) else ()
        valued = [entry for name in _unique(self._of_values(said)) for entry in self._valued[name]]
        entries = list(self._about.get((), ()))
        if vector is None or self._attributes is None:
            entries += [*own, *valued]
        else:
            for part, likely in (
                (valued, self.thresholds.valued),
                (() if self._unknown(said) else own, self.thresholds.own),
            ):
                fits = [(fit, entry) for fit, likeness, entry in self._fits(part, vector) if likeness >= likely]
                about_it = "names what was told" if part is valued else "asks about you"
                if (route := self._best(fits, self.thresholds.unsure, "entity", about_it, "")).facts:
                    return route
        scored = [(self._likeness(entry, stems(said), vector), entry) for entry in entries]
        least = self.thresholds.free_words if vector is None else self.thresholds.free
        return self._best(scored, least, "similar", "is like a taught question", "nothing taught is like it")

    def _of_values(self, said: Sequence[Word]) -> list[Mention]:
        """The values that a question names, to ask whose they are; "Oslo's" asks about Oslo itself."""
        found = [] if self._unknown(said) else self._values.find(said)
        return [mention for mention in found if not said[mention.end - 1].possessive]

    def _named(
        self, about: Sequence[Name], sure: bool, evidence: str, said: Sequence[Word], vector: Vectors | None
    ) -> Route:
        """The route of a question about known subjects."""
        entries = [entry for name in about for entry in self._about[name]]
        inside = {word for name in about for word in name}
        asked = stems(word for word in said if word.text not in inside)
        if not asked:  # "Who is Mira Solberg?"
            scored = [(1.0, entry) for entry in entries]
        elif vector is None or self._attributes is None:
            # Words alone cannot tell that "birthplace" is "where ... born": the name decides.
            scored = [(0.5 + overlap(asked, entry.stems) / 2, entry) for entry in entries]
        else:
            scored = [(fit, entry) for fit, _, entry in self._fits(entries, vector)]
        least = self.thresholds.named if sure else self.thresholds.unsure
        return self._best(scored, least, "entity", evidence, f"{evidence}, but nothing like this was taught")

    def _fits(self, entries: Sequence[_Entry], vector: Vectors) -> list[tuple[float, float, _Entry]]:
        """How well each fact of one subject fits an embedded question, and how like it is."""
        assert self._attributes is not None
        nearest = self._attributes.likeness(vector)
        taught = {name for entry in entries for name in entry.attributes}
        rival = max((value for name, value in nearest.items() if name not in taught), default=0.0)
        alike = [
            max([self._cosine(entry, vector), *(nearest.get(name, 0.0) for name in entry.attributes)])
            for entry in entries
        ]
        return [(self.fit.score(likeness, rival), likeness, entry) for likeness, entry in zip(alike, entries)]

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
        scored: Sequence[tuple[float, _Entry]],
        least: float,
        why: Literal["entity", "similar"],
        evidence: str,
        otherwise: str,
    ) -> Route:
        """The route to the best fact, the newest of equals; to the base where none reaches `least`."""
        ordered = sorted(scored, key=lambda pair: (pair[0], pair[1].lesson), reverse=True)
        score = ordered[0][0] if ordered else 0.0
        fit = [(value, entry.fact) for value, entry in ordered if value >= least]
        if not fit:
            return Route(None, "none", otherwise, score)
        scores, facts = zip(*fit)
        return Route(self.lessons[ordered[0][1].lesson].lesson_id, why, evidence, score, facts[0], facts, scores)

    def _likeness(self, entry: _Entry, asked: frozenset[str], vector: Vectors | None) -> float:
        """The cosine of a fact and a question, or the share of words in common where there are no vectors."""
        if vector is not None and entry.row is not None:
            return self._cosine(entry, vector)
        return max(dice(asked, stems(words(entry.fact.question))), dice(asked, entry.stems))

    def _cosine(self, entry: _Entry, vector: Vectors) -> float:
        if entry.row is None or self._vectors is None:
            return 0.0
        return float(self._vectors[entry.row] @ vector)

    def _listed(self, mentions: Sequence[Mention]) -> str:
        return " and ".join(self._about[name][0].fact.subject for name in _unique(mentions))


def _unique(mentions: Sequence[Mention]) -> list[Name]:
    return list(dict.fromkeys(mention.name for mention in mentions))


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
