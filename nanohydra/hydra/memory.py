"""What one user may have recalled, ready to be searched: current facts, passages, and who answers from weights."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanohydra.agent.retrieval import Index
from nanohydra.hydra.attributes import Attributes, Embed, Vectors
from nanohydra.hydra.history import strike
from nanohydra.hydra.likeness import fact_text
from nanohydra.hydra.names import words
from nanohydra.hydra.router import LessonId, Router, Taught
from nanohydra.store import Lesson, LessonFact, LessonPassage, Store

REMEMBERED = 10_000
"""Texts whose embeddings are kept, 1.5 kB each."""
_OWN = re.compile(r"(me|us)$|(my|our)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Memory:
    """Immutable: a newer one takes its place when something was taught, forgotten or reverted."""

    version: int
    """The store's version that it was read at, or before."""
    router: Router
    index: Index
    """Over the passages' texts."""
    passages: tuple[LessonPassage, ...]
    texts: tuple[str, ...]
    """Of the passages, without the sentences that hold no longer."""
    adapters: dict[LessonId, str]
    """By lesson: the adapter that answers for it."""
    names: dict[int, str]
    """By lesson: what its owner called it."""
    where: dict[int, str]
    """By passage: the file and page it comes from."""
    holders: Mapping[str, frozenset[int]]
    """By folded word: the passages, by their place, in which it stands."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to recall."""
        return not self.passages and not any(lesson.facts for lesson in self.router.lessons)

    def holding(self, names: Collection[str]) -> frozenset[int]:
        """The passages, by their place, that hold all these folded words."""
        return frozenset.intersection(*(self.holders.get(name, frozenset()) for name in names))


class Vectorizer:
    """Embeddings of what is kept: from the store where it has them, else made and stored."""

    def __init__(self, store: Store, embed: Embed, cache: Path | None = None) -> None:
        self._store, self.embed, self._cache = store, embed, cache
        self._usual: Attributes | None = None
        self._remembered: dict[str, Vectors] = {}
        self._lock = threading.Lock()

    def usual(self) -> Attributes:
        """What people usually ask about; made once."""
        with self._lock:
            if self._usual is None:
                self._usual = Attributes.usual(self.embed, self._cache)
            return self._usual

    def remembering(self, texts: list[str]) -> Vectors:
        """(texts, 384); what was asked for lately is not embedded again."""
        known, distinct = self._remembered, list(dict.fromkeys(texts))
        if len(known) + len(distinct) > REMEMBERED:
            known = {}
        if new := [text for text in distinct if text not in known]:
            known = self._remembered = {**known, **dict(zip(new, self.embed(new)))}
        return np.stack([known[text] for text in texts])

    def of_facts(self, facts: Sequence[LessonFact]) -> Vectors:
        """(facts, 384)."""
        return self._kept("facts", facts, [fact_text(fact) for fact in facts])

    def of_passages(self, passages: Sequence[LessonPassage], texts: Sequence[str]) -> Vectors:
        """(passages, 384); those of passages whose text was shortened are not stored."""
        whole = [i for i, passage in enumerate(passages) if passage.text == texts[i]]
        vectors = np.zeros((len(passages), 384), np.float32)
        if whole:
            vectors[whole] = self._kept("passages", [passages[i] for i in whole], [texts[i] for i in whole])
        if rest := [i for i, passage in enumerate(passages) if passage.text != texts[i]]:
            vectors[rest] = self.embed([texts[i] for i in rest])
        return vectors

    def _kept(self, kind: str, rows: Sequence[LessonFact | LessonPassage], texts: Sequence[str]) -> Vectors:
        kept = [row.vector for row in rows]
        missing = [i for i, vector in enumerate(kept) if vector is None]
        vectors = np.stack([np.frombuffer(stored or bytes(768), np.float16) for stored in kept]).astype(np.float32)
        if missing:
            # Rounded as the store rounds, so that nothing depends on whether it was stored before.
            made = self.embed([texts[i] for i in missing]).astype(np.float16)
            self._store.set_vectors(kind, {rows[i].id: vector.tobytes() for i, vector in zip(missing, made)})
            vectors[missing] = made
        return vectors


def read_memory(
    store: Store, user_id: int, base_id: str, vectorizer: Vectorizer | None, before: Memory | None = None
) -> Memory:
    """Reads what a user may see, over one base. before: an older one of the same user, whose index is taken over where it
    holds the same texts."""
    version = store.version()
    lessons = sorted((one for one in store.lessons(user_id) if one.state != "reverted"), key=lambda one: one.id)
    mine = {lesson.id for lesson in lessons if lesson.user_id == user_id}
    everything = store.facts(user_id, current=False)
    facts: dict[int, list[LessonFact]] = {lesson.id: [] for lesson in lessons}
    ended: dict[int, list[LessonFact]] = {}
    for fact in everything:
        if fact.valid_until is not None or fact.forgotten:
            if fact.passage_id is not None:
                ended.setdefault(fact.passage_id, []).append(fact)
        elif fact.lesson_id in facts and (fact.lesson_id in mine or not _OWN.match(fact.subject)):
            facts[fact.lesson_id].append(fact)
    told = [
        (passage, text)
        for passage in store.passages(user_id)
        if passage.lesson_id in facts and (text := without(passage.text, ended.get(passage.id, ())))
    ]
    passages, texts = tuple(passage for passage, _ in told), tuple(text for _, text in told)
    return Memory(
        version,
        _router(lessons, facts, vectorizer),
        _index(passages, texts, vectorizer, before),
        passages,
        texts,
        _adapters(lessons, base_id),
        {lesson.id: lesson.name for lesson in lessons},
        {passage.id: passage.source for passage in passages},
        before.holders if before is not None and before.texts == texts else _holders(texts),
    )


def without(text: str, ended: Sequence[LessonFact]) -> str:
    """A passage without the sentences that tell facts which hold no longer; nothing of it where they cannot be found."""
    for fact in ended:
        rest = strike(text, fact.subject, fact.value)
        if rest == text and not fact.forgotten:  # passages lose what was forgotten in the store itself
            return ""
        text = rest
    return text


def _router(lessons: Sequence[Lesson], facts: dict[int, list[LessonFact]], vectorizer: Vectorizer | None) -> Router:
    flat = [fact for lesson in lessons for fact in facts[lesson.id]]
    if vectorizer is None or not flat:
        return Router([Taught(lesson.id, facts[lesson.id]) for lesson in lessons])
    attributes = vectorizer.usual().plus((fact.attribute for fact in flat), vectorizer.remembering)
    vectors = vectorizer.of_facts(flat)
    taught: list[Taught] = []
    start = 0
    for lesson in lessons:
        end = start + len(facts[lesson.id])
        taught.append(Taught(lesson.id, facts[lesson.id], vectors[start:end]))
        start = end
    return Router(taught, attributes)


def _index(
    passages: tuple[LessonPassage, ...], texts: tuple[str, ...], vectorizer: Vectorizer | None, before: Memory | None
) -> Index:
    if before is not None and before.texts == texts and [p.id for p in before.passages] == [p.id for p in passages]:
        return before.index
    vectors = vectorizer.of_passages(passages, texts) if vectorizer is not None and texts else None
    return Index(texts, vectors)


def _holders(texts: Sequence[str]) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {}
    for number, text in enumerate(texts):
        for word in words(text):
            found.setdefault(word.text, set()).add(number)
    return {word: frozenset(numbers) for word, numbers in found.items()}


def _adapters(lessons: Sequence[Lesson], base_id: str) -> dict[LessonId, str]:
    """The newest published adapter over this base that holds each lesson: its own, or a consolidation's."""
    adapters: dict[LessonId, str] = {}
    for lesson in lessons:
        if lesson.state == "published" and lesson.adapter and lesson.base_id == base_id:
            held = [*lesson.settings.get("lessons", ()), lesson.id]
            adapters.update((number, lesson.adapter) for number in held)
    return adapters
