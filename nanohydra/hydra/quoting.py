"""The sentences of passages that answer a question.

Of somebody who is named, a sentence must hold the whole name, or go on about who was named before it. What is asked is then
compared with names masked out, as the router does: by the two embeddings, by whether both are about the same usual attribute
("send for her if you need a locksmith" is about a job), and by what kind of answer is wanted: a number, or a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanohydra.hydra.attributes import MASK, Attributes, Embed, Vectors
from nanohydra.hydra.names import words
from nanohydra.hydra.plain_words import FUNCTION, PRONOUNS
from nanohydra.hydra.sentences import CLEFT

LEAST = 0.3
"""Least cosine of a question that names nobody and a sentence."""
LEAST_WORDS = 0.3
"""Without embeddings: the least share of the question's own words."""
WORDS = 10.0
"""Without embeddings: what the whole share counts for."""
LEAST_FIT = 2.7
"""Least fit of a sentence about whom the question names: 1 of 100 right ones fits less than 3.4 (bench/retrieval.py)."""
SURE = -0.75
"""Least evidence (TOLD) that a sentence tells what is asked: 9 of 10 right ones have more, and 1 of 4 nearest others."""
CLOSE = 2.0
"""Sentences whose fits differ by less cannot be told apart: both are quoted."""
MOST = 32
"""Sentences that are embedded for one question, at most."""
NUMBERED = re.compile(r"\b(when|year|date|day|how (?:old|many|much|tall|long|far|big))\b", re.I)
NAMED = re.compile(
    r"\b(who|whom|whose|person|friend|where|town|city|place|country|river|company|organi[sz]ation|firm|employ\w*)\b",
    re.I,
)
"""What asks for a number, and what asks for a name."""


@dataclass(frozen=True)
class Weights:
    """What each likeness counts for; fitted by bench/retrieval.py --calibrate."""

    cosine: float
    attribute: float
    number: float
    """A number where one is asked for."""
    no_number: float
    """A number where none is."""
    name: float
    """Another name where one is asked for."""
    first: float
    """Whom the question is about comes first in the sentence."""
    bias: float = 0.0

    def of(self, found: Vectors) -> list[float]:
        """The weighted sums of `features`' rows."""
        *each, bias = vars(self).values()
        return [float(row @ np.array(each)) + bias for row in found]


FIT = Weights(9.0, 6.5, 3.9, -4.1, 2.0, 1.5)
"""Which of the sentences about somebody is meant."""
TOLD = Weights(8.8, 8.3, 4.1, -2.6, 1.0, 0.8, -4.5)
"""Whether the one that fits best tells what is asked, or nothing does."""


@dataclass(frozen=True)
class Quote:
    """A sentence of a passage that may answer a question."""

    passage: int
    """Its place among the passages."""
    sentence: str
    fit: float
    sure: bool = True
    """Whether it tells what is asked, rather than being only the nearest there is."""


def sentences(text: str) -> list[str]:
    """A passage's sentences."""
    return [part for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()]


def about(text: str, names: frozenset[str]) -> list[str]:
    """The sentences of a passage that hold all these folded words, or go on about who was named in those before."""
    found: list[str] = []
    going_on = False
    for sentence in sentences(text):
        said = words(sentence)
        holds = names <= {word.text for word in said}
        pronoun = next((i for i, word in enumerate(said) if word.text in PRONOUNS), None)
        # A name before the pronoun would be what the pronoun stands for.
        goes_on = going_on and pronoun is not None and not any(word.capital for word in said[1:pronoun])
        going_on = holds or (goes_on and not CLEFT.match(sentence))
        if going_on:
            found.append(sentence)
    return found


def mask_words(text: str, names: frozenset[str]) -> str:
    """A text in which MASK stands for each run of these folded words."""
    parts: list[str] = []
    end, inside = 0, False
    for word in words(text):
        if word.text in names:
            if not inside:
                parts += [text[end : word.begin], MASK]
            end, inside = word.end, True
        else:
            inside = False
    return "".join(parts) + text[end:]


def best(
    question: str,
    candidates: Sequence[tuple[int, str]],
    names: frozenset[str],
    embed: Embed | None,
    attributes: Attributes | None,
    rivals: Sequence[str] = (),
) -> list[Quote]:
    """Of (passage, sentence) those that fit the question, better than any of the rivals, best first; often none."""
    candidates = list(dict.fromkeys(candidates))[:MOST]
    if not candidates:
        return []
    texts = [*(sentence for _, sentence in candidates), *rivals]
    if embed is None or attributes is None:
        asked = {w.text for w in words(question)} - FUNCTION - names
        shares = [len(asked & {w.text for w in words(text)}) / len(asked) if asked else 1.0 for text in texts]
        fits, enough = [WORDS * share for share in shares], [share >= LEAST_WORDS for share in shares]
        told = [True] * len(texts)
    else:
        vectors = embed([mask_words(text, names) for text in [question, *texts]])
        found = features(question, texts, names, vectors, attributes)
        fits, told = FIT.of(found), [each >= SURE or not names for each in TOLD.of(found)]
        enough = [fit >= LEAST_FIT if names else cosine >= LEAST for fit, cosine in zip(fits, found[:, 0])]
    beaten = max(fits[len(candidates) :], default=-np.inf)
    order = sorted(range(len(candidates)), key=lambda i: -fits[i])
    return [Quote(*candidates[i], fits[i], told[i]) for i in order if enough[i] and fits[i] > beaten]


def features(
    question: str, texts: Sequence[str], names: frozenset[str], vectors: Vectors, attributes: Attributes
) -> Vectors:
    """What speaks for each text as an answer: (texts, 6), in the order of `Weights`.

    Args: vectors: (1 + texts, D) of the masked question and texts.
    """
    shares = np.stack([attributes.shares(vector) for vector in vectors])
    numbered, named = bool(NUMBERED.search(question)), bool(NAMED.search(question))
    rows = []
    for text, vector, share in zip(texts, vectors[1:], shares[1:]):
        said = words(text)
        others = [i for i, word in enumerate(said) if word.capital and not word.starts and word.text not in names]
        number = any(word.text[0].isdigit() for word in said)
        begins = next((i for i, word in enumerate(said) if word.text in names), -1)
        rows.append(
            (
                float(vector @ vectors[0]),
                float(share @ shares[0]),
                numbered and number,
                not numbered and number,
                named and not numbered and bool(others),
                not others or begins <= others[0],
            )
        )
    return np.array(rows, np.float32)


def closest(found: Sequence[Quote]) -> list[Quote]:
    """The best quotation, with a second one where they cannot be told apart."""
    return [quote for quote in found[:2] if found[0].fit - quote.fit < CLOSE]
