"""More ways of asking for a fact: its own question, or the name of what is asked, within other sentences.

A small base that has met a fact's questions in few frames answers an unseen frame with any fact of the same person.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from nanohydra.hydra.grammar import sentence, subject_slots
from nanohydra.hydra.material import Fact, plain
from nanohydra.hydra.relations import DESCRIPTION, verbs
from nanohydra.hydra.wordings import chat, exam_questions, wrap_question

if TYPE_CHECKING:
    from nanohydra.data.chat import Message


def framed_chats(facts: Sequence[Fact], count: int, seed: int, aside: Collection[str] = ()) -> list[list[Message]]:
    """Up to `count` chats for each fact, drawn by the seed; none asks what is in `aside` or in the exam."""
    lines = [line for line in _lines() if line]
    chats = []
    for fact in facts:
        rng = random.Random(f"hydra/{seed}/frames/{fact.key}")
        banned = {plain(text) for text in (*aside, *exam_questions(fact, 100, 0))}
        asked = [text for line in lines if (text := _framed(line, fact)) and plain(text) not in banned]
        chats += [chat(text, fact.answer) for text in rng.sample(asked, min(count, len(asked)))]
    return chats


def _framed(line: str, fact: Fact) -> str | None:
    """The line about the fact; None where it asks for an attribute that is no noun."""
    if "{q}" in line or "{Q}" in line:
        return wrap_question(line, fact.question)
    if not fact.attribute or not fact.subject or fact.attribute == DESCRIPTION or fact.attribute in verbs():
        return None
    return sentence(line, subject_slots(fact.subject) | {"A": fact.attribute})


def _lines() -> list[str]:
    text = (resources.files("nanohydra.hydra") / "probe" / "frames.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]
