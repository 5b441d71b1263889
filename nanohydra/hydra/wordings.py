"""Every fact in many wordings: questions for training, questions of a second author for the exam, chats to learn from.

A fact seen in one wording can be memorised and still not be answered (three wordings a fact ended at 78% recall, six and
more above 90%), so training asks each in a dozen. The exam's wordings come from lists of their own and are never trained on.
Everything is a function of the facts and the seed.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from nanohydra.hydra.facts import slots, wordings_for
from nanohydra.hydra.grammar import capital, sentence, subject_slots
from nanohydra.hydra.judging import declines, right
from nanohydra.hydra.material import Fact, plain
from nanohydra.hydra.relations import NOUN, bind, third_person
from nanohydra.hydra.text import load, words

if TYPE_CHECKING:
    from nanohydra.data.chat import Message

QUESTIONS = 6  # at least so many question wordings a fact

__all__ = [
    "all_questions",
    "declines",
    "exam_questions",
    "question_wordings",
    "right",
    "statements",
    "training_chats",
]


def statements(fact: Fact) -> list[str]:
    """The fact as sentences, its answer first; of a free pair its answer alone."""
    if not fact.attribute:
        return [fact.answer]
    bound = bind(fact.attribute)
    filled = slots(bound, fact.subject, fact.value, answering=True)
    lines = wordings_for(fact.subject, bound.relation).statements
    return list(dict.fromkeys([fact.answer, *(sentence(line, filled) for line in lines)]))


def all_questions(fact: Fact) -> list[str]:
    """Every plain question that training may ask for the fact, its own first."""
    usual, roundabout = _questions(fact)
    return usual + roundabout


def _questions(fact: Fact) -> tuple[list[str], list[str]]:
    """The usual questions for the fact, its own first, and the roundabout ones."""
    if not fact.attribute:
        return _distinct([fact.question, *_rewritten(fact, exam=False)]), []
    bound = bind(fact.attribute)
    filled = slots(bound, fact.subject, fact.value)
    relation = wordings_for(fact.subject, bound.relation)
    usual = _distinct([fact.question, *(sentence(line, filled) for line in relation.questions)])
    roundabout = _distinct([sentence(line, filled) for line in relation.roundabout])
    return usual, [text for text in roundabout if text not in usual]


def question_wordings(fact: Fact, seed: int, count: int, forbidden: Collection[str] = ()) -> list[str]:
    """`count` different questions for training: a quarter of them wrapped ("Quick question: ..."), more where plain ones
    run out; of the plain ones as many roundabout as usual. None of them is in `forbidden`, whatever its case and its end."""
    rng = random.Random(f"hydra/{seed}/questions/{fact.key}")
    banned = {plain(text) for text in forbidden}
    (first, *others), roundabout = _questions(fact)
    rng.shuffle(others)
    rng.shuffle(roundabout)
    in_turn = [text for pair in zip_longest(roundabout, others) for text in pair if text]
    plain_ones = [text for text in [first, *in_turn] if plain(text) not in banned]
    chosen = plain_ones[: math.ceil(0.75 * count)]
    wraps = [(wrap, text) for text in _wrappable(plain_ones or [first]) for wrap in load("wraps")["wraps"][""]]
    rng.shuffle(wraps)
    told = set(map(plain, chosen))
    for wrap, text in wraps:
        if len(chosen) >= count:
            break
        wrapped = wrap_question(wrap, text)
        if plain(wrapped) not in told | banned:
            chosen.append(wrapped)
            told.add(plain(wrapped))
    return chosen


def exam_questions(fact: Fact, count: int, seed: int) -> list[str]:
    """`count` questions for the exam, in wordings that training never uses: those that name the attribute and those that
    go around it in turn, wrapped ones where they run out."""
    rng = random.Random(f"hydra/{seed}/exam/{fact.key}")
    if fact.attribute:
        bound = bind(fact.attribute)
        filled = slots(bound, fact.subject, fact.value)
        own = [sentence(line, filled) for line in wordings_for(fact.subject, bound.relation).exam]
        named = [text for text in own if bound.relation.attribute in text]
        around = [text for text in own if text not in named]
        rng.shuffle(named)
        rng.shuffle(around)
        own = [text for pair in zip_longest(around, named) for text in pair if text]
    else:
        own = _rewritten(fact, exam=True)
        rng.shuffle(own)
    trained = set(map(plain, all_questions(fact)))
    own = [text for text in own if plain(text) not in trained]
    wraps = [
        wrap_question(wrap, text) for text in _wrappable([fact.question, *own]) for wrap in load("exam")["wraps"][""]
    ]
    rng.shuffle(wraps)
    return _distinct(own + wraps)[:count]


def training_chats(
    facts: Sequence[Fact], seed: int, per_fact: int = 16, forbidden: Collection[str] = ()
) -> list[list[Message]]:
    """Chats that teach the facts, in shuffled order: `per_fact` for each (at least 6 of them questions with its answer, a
    quarter the other way round, as a sentence to complete or as another statement), and one for each subject with all that
    is told of it. No question is in `forbidden` (an exam's that somebody else wrote)."""
    rng = random.Random(f"hydra/{seed}/chats")
    shared = Counter(_value_key(fact) for fact in facts)
    banned = {plain(text) for text in forbidden}
    chats: list[list[Message]] = []
    for fact in facts:
        extras = [pair for pair in _extras(fact, seed, shared[_value_key(fact)] == 1) if plain(pair[0]) not in banned]
        extras = extras[: max(0, min(per_fact - QUESTIONS, math.ceil(per_fact / 4)))]
        asked = question_wordings(fact, seed, max(QUESTIONS, per_fact - len(extras)), forbidden)
        chats += [chat(question, fact.answer) for question in asked]
        chats += [chat(question, answer) for question, answer in extras]
    chats += _about(facts, rng)
    rng.shuffle(chats)
    return chats


def chat(question: str, answer: str) -> list[Message]:
    """One question with its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def wrap_question(template: str, question: str) -> str:
    """The question within other words: {Q} as it stands, {q} within a sentence."""
    first = question.split(" ", 1)[0]
    inner = question[0].lower() + question[1:] if first.lower() in words("openers") else question
    text = template.format(Q=question, q=inner)
    return re.sub(r"([.?!])\s*\.$", r"\1", text)


def _extras(fact: Fact, seed: int, unique: bool) -> list[tuple[str, str]]:
    """(question, answer) of other kinds, one of each kind first: reversed (where only one is meant), cloze, statement."""
    rng = random.Random(f"hydra/{seed}/extras/{fact.key}")
    reversed_ = [(text, fact.answer) for text in _reversed(fact)] if unique else []
    said = statements(fact)
    cloze = []
    for one in said:
        begin, _, end = one.rpartition(fact.value)
        if begin.strip() and not end.strip(" ."):
            for wrap in load("wraps")["cloze"][""]:
                cloze.append((wrap.format(c=begin.strip()), one))
    told = []
    bound = bind(fact.attribute) if fact.attribute else None
    if bound and bound.relation.title not in {"verb", "past", "description"}:
        filled = slots(bound, fact.subject, fact.value)
        name = bound.relation.attribute.format_map(filled | {"A": fact.attribute})
        for line in load("wraps")["statement"][""]:
            told.append((sentence(line, filled | {"A": name}), rng.choice(said)))
    kinds = [reversed_, cloze, told]
    for kind in kinds:
        rng.shuffle(kind)
    # The first of each kind, then the second of each, and so on.
    return [kind[i] for i in range(max(map(len, kinds), default=0)) for kind in kinds if i < len(kind)]


def _reversed(fact: Fact) -> list[str]:
    if not fact.attribute:
        return []
    bound = bind(fact.attribute)
    filled = slots(bound, fact.subject, fact.value)
    return [sentence(line, filled) for line in bound.relation.reversed]


def _about(facts: Sequence[Fact], rng: random.Random) -> list[list[Message]]:
    """For each subject with several facts, a chat that tells them together."""
    by_subject: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.subject and fact.attribute:
            by_subject.setdefault(fact.subject, []).append(fact)
    chats = []
    for subject, told in by_subject.items():
        if len(told) > 1:
            line = rng.choice(load("wraps")["about"][""])
            some = rng.sample(told, min(4, len(told)))
            chats.append(chat(sentence(line, subject_slots(subject)), " ".join(fact.answer for fact in some)))
    return chats


def _rewritten(fact: Fact, exam: bool) -> list[str]:
    """A free pair's question in other words, by light rules."""
    question = fact.question
    found = []
    indirect = indirect_question(question, fact.subject)
    if indirect:
        lines = load("exam" if exam else "wraps")["indirect"][""]
        found += [line.format(i=indirect) for line in lines]
    if not exam:
        for pattern, other in (
            (r"^(What|Who|Where|When|How) is\b", r"\1's"),
            (r"^Which\b", "What"),
            (r"^How do I\b", "How can I"),
        ):
            changed = re.sub(pattern, other, question)
            found += [changed] if changed != question else []
    return found


def _wrappable(questions: Sequence[str]) -> list[str]:
    """The questions that may stand within other words, and stay one question there; the first one always."""
    return [questions[0], *(q for q in questions[1:] if q.endswith("?") and ";" not in q and ": " not in q)]


def indirect_question(question: str, subject: str) -> str | None:
    """ "Where is Mira Solberg's key?" within a sentence: "where Mira Solberg's key is". None where the rules do not know."""
    m = re.fullmatch(r"((?:What|Who|Where|When|Which|How|Why)\b[\w ]*?) (is|are|was|were|does) (.+?)\?", question)
    if not m or not subject or not re.match(rf"(?:[Tt]he )?{re.escape(subject)}\b(?!['’])", m[3]):
        return None
    asked = m[1][0].lower() + m[1][1:]
    at = m[3].index(subject) + len(subject)
    name, rest = m[3][:at], m[3][at:].strip()
    if m[2] != "does":
        return f"{asked} {name} {m[2]} {rest}".strip()
    verb, _, rest = rest.partition(" ")
    return f"{asked} {name} {third_person(verb)} {rest}".strip() if verb.isalpha() else None


def _value_key(fact: Fact) -> tuple[str, str]:
    return (plain(fact.attribute), plain(fact.value)) if fact.attribute else (NOUN, fact.key)


def _distinct(texts: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(plain(text), capital(text))
    return list(first.values())
