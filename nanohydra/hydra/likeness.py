"""What the router compares: texts with names masked, for embeddings, and words without their endings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from nanohydra.hydra.attributes import MASK
from nanohydra.hydra.names import Mention, Name, Names, Word, name_of, words
from nanohydra.hydra.plain_words import FUNCTION, PLAIN

Stems = frozenset[str]
SPEAKERS = frozenset({"me", "us"})
"""Subjects of facts about the person who asks."""
SELF: Name = ("me",)
"""What stands for them among names."""
POSSESSIVE = frozenset({"his", "their", "its", "theirs", "her", "my", "mine", "our", "your", "yours"})
PRONOUN = re.compile(r"\b(he|she|him|her|his|hers|they|them|their|theirs|it|its)\b", re.I)
SPEAKER = re.compile(r"\b(i|me|my|mine|myself|we|us|our|you|your|yours)\b", re.I)
_ENDINGS = re.compile(r"(?<=\w{3})(ings?|ed|es|s|e|ion|ions|al|ly|er|ers)$")


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


def fact_text(fact: TaughtFact) -> str:
    """The text whose embedding stands for a fact: question and answer with the subject masked."""
    text = f"{fact.question} {fact.answer}"
    if not fact.subject:
        return text
    if fact.subject in SPEAKERS:
        return masked(SPEAKER, text)
    said = words(text)
    return mask(text, Names([fact.subject]).find(said), said)


def mask(text: str, mentions: Sequence[Mention], said: Sequence[Word]) -> str:
    """A text of which `said` are the words, with MASK for each of its mentions."""
    parts: list[str] = []
    end = 0
    for mention in mentions:
        parts += [text[end : said[mention.start].begin], MASK]
        end = said[mention.end - 1].end
    return "".join(parts) + text[end:]


def stem(word: str) -> str:
    """A word without its ending, roughly: enough to see "works" in "worked"."""
    return _ENDINGS.sub("", word)


def stems(said: Iterable[Word]) -> Stems:
    """What words tell, without their endings and without words like "the"."""
    return frozenset(stem(word.text) for word in said if word.text not in FUNCTION)


def fact_stems(fact: TaughtFact) -> Stems:
    """Those of all that a fact says, but its subject's."""
    inside = set(name_of(fact.subject))
    said = words(f"{fact.question} {fact.answer} {fact.attribute}")
    return stems(word for word in said if word.text not in inside)


def tells(value: str) -> bool:
    """Whether a value can be recognised by itself: "Trondheim" and "glass blower", not "blue" or "7"."""
    said = words(value)
    return len(said) > 1 or any(word.capital and len(word.text) > 2 and word.text not in PLAIN for word in said)


def masked(pronouns: re.Pattern[str], text: str) -> str:
    """A text with MASK for pronouns."""
    return pronouns.sub(lambda m: MASK + ("'s" if m[1].casefold() in POSSESSIVE else ""), text)


def overlap(asked: Stems, told: Stems) -> float:
    """The share of the words asked that are told."""
    return len(asked & told) / len(asked) if asked else 0.0


def dice(asked: Stems, told: Stems) -> float:
    """Dice's coefficient (1945) of two sets of words."""
    return 2 * len(asked & told) / (len(asked) + len(told)) if asked and told else 0.0
