"""The sentence of a passage that answers a question.

Of somebody who is named, a sentence must hold the whole name, or go on about who was named before it. What is asked is then
compared with names masked out, as the router does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nanohydra.hydra.attributes import MASK, Embed
from nanohydra.hydra.names import words
from nanohydra.hydra.plain_words import FUNCTION, PRONOUNS

LEAST = 0.3
"""Least cosine of a masked question and a masked sentence about the right name (bench/retrieval.py)."""
LEAST_WORDS = 0.3
"""Without embeddings: the least share of the question's own words."""
MOST = 32
"""Sentences that are embedded for one question, at most."""


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
        going_on = holds or (going_on and pronoun is not None and not any(w.capital for w in said[1:pronoun]))
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
    question: str, candidates: Sequence[tuple[int, str]], names: frozenset[str], embed: Embed | None
) -> list[tuple[int, str]]:
    """Of (passage, sentence) those that fit the question, best first; often none."""
    candidates = list(dict.fromkeys(candidates))[:MOST]
    if not candidates:
        return []
    if embed is None:
        asked = {w.text for w in words(question)} - FUNCTION - names
        scores = [len(asked & {w.text for w in words(s)}) / len(asked) if asked else 1.0 for _, s in candidates]
        least = LEAST_WORDS
    else:
        vectors = embed([mask_words(text, names) for text in [question, *(sentence for _, sentence in candidates)]])
        scores, least = (vectors[1:] @ vectors[0]).tolist(), LEAST
    order = sorted(range(len(candidates)), key=lambda i: -scores[i])
    return [candidates[i] for i in order if scores[i] >= least]
