"""What is new in a material, beside all that was taught before."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from nanohydra.hydra.judging import right
from nanohydra.hydra.material import Fact, Known, Material, plain
from nanohydra.hydra.relations import bind

Pairs = tuple[tuple[Fact, Known], ...]


@dataclass(frozen=True)
class Novelty:
    """The material's facts in four heaps; each fact is in one."""

    new: tuple[Fact, ...]
    known: tuple[Fact, ...]
    contradicting: Pairs
    """Another value for what is known: the newer supersedes, and the history keeps both with their dates."""
    unsure: Pairs
    """To be asked: a name that is nearly one that is known ("Mira Solbreg"), or one more of what may be several."""


def compare(material: Material, known: Sequence[Known]) -> Novelty:
    """Sorts the facts of a material by what `known`, the current facts of earlier lessons, say."""
    by_key: dict[str, Known] = {}
    by_attribute: dict[str, list[Known]] = defaultdict(list)
    subjects = {plain(one.fact.subject) for one in known}
    for one in sorted(known, key=lambda one: one.since):
        by_key[one.fact.key] = one
        by_attribute[plain(one.fact.attribute)].append(one)
    new: list[Fact] = []
    same: list[Fact] = []
    contradicting: list[tuple[Fact, Known]] = []
    unsure: list[tuple[Fact, Known]] = []
    for fact in material.facts:
        earlier = by_key.get(fact.key)
        if earlier is None:
            near = _near(fact, by_attribute[plain(fact.attribute)], subjects)
            if near:
                unsure.append((fact, near))
            else:
                new.append(fact)
        elif says_the_same(fact, earlier.fact):
            same.append(fact)
        elif fact.attribute and bind(fact.attribute).relation.many and not right(earlier.fact, fact.value):
            unsure.append((fact, earlier))
        else:
            contradicting.append((fact, earlier))
    return Novelty(tuple(new), tuple(same), tuple(contradicting), tuple(unsure))


def says_the_same(fact: Fact, earlier: Fact) -> bool:
    """Whether the earlier fact holds all that this one says: "Norwegian" beside "Norwegian and English"."""
    if plain(fact.value) == plain(earlier.value):
        return True
    many = bool(earlier.attribute) and bind(earlier.attribute).relation.many
    return right(fact, earlier.value) and (many or right(earlier, fact.value))


def _near(fact: Fact, candidates: Sequence[Known], subjects: set[str]) -> Known | None:
    """A known fact that may be meant: of a nearly equal subject, where the fact's own is not known otherwise."""
    subject = plain(fact.subject)
    if not fact.attribute:
        asked = _content(fact.question)
        for one in candidates:
            other = _content(one.fact.question)
            # Two questions may share all words but the one that matters: they must have the very same ones.
            if asked and asked == other and not says_the_same(fact, one.fact):
                return one
        return None
    if subject in subjects:
        return None
    return next((one for one in candidates if nearly(subject, plain(one.fact.subject))), None)


def nearly(one: str, other: str) -> bool:
    """Whether two different names may be meant as one: a letter off, words in another order, or a part of the other."""
    if one == other or not one or not other:
        return False
    mine, yours = one.split(), other.split()
    if sorted(mine) == sorted(yours):
        return True
    if set(mine) < set(yours) or set(yours) < set(mine):
        shorter = min((mine, yours), key=len)
        return any(len(word) > 2 and word not in {"the", "project", "company"} for word in shorter) and shorter[
            0
        ] not in {"my", "our"}
    return len(one) > 3 and one_letter_off(one, other)


def one_letter_off(one: str, other: str) -> bool:
    """Whether one letter more, less, other, or two letters swapped make one text the other."""
    if abs(len(one) - len(other)) > 1 or one == other:
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    a, b = one[start:], other[start:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _content(question: str) -> frozenset[str]:
    aside = {"a", "an", "the", "is", "are", "was", "were", "do", "does", "did", "please", "of", "to", "in", "s"}
    return frozenset(re.findall(r"\w+", plain(question))) - aside
