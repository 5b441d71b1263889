"""Pairs of question and answer to facts: what is asked is read by the same wordings that ask it."""

from __future__ import annotations

import re
from functools import cache

from nanohydra.hydra.facts import PRONOUNS, Context, is_subject, make_fact, read_sentence
from nanohydra.hydra.grammar import Reader, as_subject, capital, names_in, reader
from nanohydra.hydra.judging import right
from nanohydra.hydra.material import Fact
from nanohydra.hydra.relations import DESCRIPTION, NOUN, Bound, Relation, bind, general, relations, verbs
from nanohydra.hydra.sentences import VERBS, sentences, tidy
from nanohydra.hydra.text import words
from nanohydra.hydra.values import read_value, trimmed

SHORT = 6  # words: a shorter answer is its own value
_ASIDE = words("function words")


def fact_of_pair(question: str, answer: str, passage: int | None = None) -> Fact:
    """The fact that the answer to this question is; attribute "" where the question fits no wording."""
    question, answer = " ".join(question.split()), " ".join(answer.split())
    asked = question if question[-1:] in "?.!:" else f"{question}?"
    asked = capital(asked)
    about = read_question(asked)
    if about:
        subject, attribute = about
        known = bind(attribute)
        value = _value_of(known, asked, answer) or _value(asked, answer)
        full = make_fact(subject, attribute, value, passage)
        told = full.answer if _bare(answer) else _as_sentence(answer)
        # "It is in the drawer" answers, but says nothing alone: better the relation's own sentence.
        if subject not in PRONOUNS and subject.split()[-1].lower() not in told.lower() and right(full, answer):
            told = full.answer
        return Fact(subject, full.attribute, value, asked, told, passage)
    return Fact(_named(asked), "", _value(asked, answer), asked, _as_sentence(answer), passage)


def read_question(question: str) -> tuple[str, str] | None:
    """(subject, attribute) of a question in a wording that is known, or None."""
    text = re.sub(r"^(What|Who|Where|When|How)['’]s\b", r"\1 is", tidy(question))
    lower = text.lower()
    for relation, read in _question_readers():
        m = read.match(text, lower)
        if m is None or "S" not in m or not is_subject(m["S"]):
            continue
        about = m.get("T", m.get("A", ""))
        if relation.of and about not in relation.of:
            continue
        if about and (about != about.lower() or set(about.split()) & words("not a subject")):
            continue
        return m["S"], relation.attribute.format(T=about, A=about)
    asked = re.fullmatch(r"What (does|do|did) (.+?)\?*", text)
    told = asked[2].split() if asked else []
    for size in range(2, 0, -1):
        subject, base = as_subject(" ".join(told[:-size])), " ".join(told[-size:])
        if asked and is_subject(subject) and (attribute := _verb(base, "past" if asked[1] == "did" else "verb")):
            return subject, attribute
    return None


def _verb(base: str, kind: str) -> str | None:
    return next((attribute for attribute, form in verbs().items() if form == (base, kind)), None)


@cache
def _question_readers() -> tuple[tuple[Relation, Reader], ...]:
    found = []
    for relation in relations():
        for template in (*relation.questions, *relation.exam):
            found.append((relation, reader(template)))
    who = ("Who is {Sp} {A}?", "Who is the {A} of {O}?", "What was {Sp} {A}?", "What was the {A} of {O}?")
    found += [(general(NOUN), reader(t)) for t in (*general(NOUN).questions, *general(NOUN).exam, *who)]
    found += [(general(DESCRIPTION), reader(t)) for t in general(DESCRIPTION).questions]
    return tuple((relation, read) for relation, read in found if read)


def _value_of(known: Bound, question: str, answer: str) -> str | None:
    """The value as sentences of the relation hold it."""
    text = tidy(answer)
    for fact in read_sentence(text, Context()):
        if bind(fact.attribute) == known:
            return fact.value
    if _bare(text):
        return read_value(known.relation.value, text)
    if known.relation.value in {"person", "name", "place"}:  # "It is Oslo.", "Ana Ruiz wrote it."
        names = names_in(re.sub(r"^(?:It|He|She|They|That|This|The) ", "", text))
        return next((name for name in names if name not in question), None)
    return None


def _bare(answer: str) -> bool:
    """Whether the answer is a value, not a sentence."""
    told = re.match(r"(?:I|you|we|they|he|she|it|that)\b", answer, re.I)
    return not told and len(answer.split()) <= SHORT and not set(answer.lower().split()) & (VERBS | verbs().keys())


def _value(question: str, answer: str) -> str:
    """The part of an answer that the question does not hold: of "The badge opens the north door." the north door."""
    told = re.match(r"(yes|no)\b", answer, re.I)
    if told:
        return told[1].lower()
    first = next(iter(sentences(answer)), answer).strip(' .!"“”')
    found = first.split()
    if _bare(first) or not found:
        return first or answer
    asked = {_stem(word) for word in re.findall(r"\w+", question)}
    new = [
        i
        for i, word in enumerate(found)
        if (w := re.sub(r"\W", "", word)) and _stem(w) not in asked and w.lower() not in _ASIDE
    ]
    # After what it shares with the question an answer comes to the point; what is new before that point stays out.
    shared = [
        i for i, word in enumerate(found) if _stem(re.sub(r"\W", "", word)) in asked and word.lower() not in _ASIDE
    ]
    after = [i for i in new if not shared or i > shared[-1]]
    kept = after or new
    if not kept:
        return trimmed(first) or first
    start = kept[0]
    while start and found[start - 1].lower() in {"the", "a", "an"}:
        start -= 1
    return " ".join(found[start : kept[-1] + 1]).strip(' ,.;:!?"“”') or first


def _stem(word: str) -> str:
    word = word.lower()
    return re.sub(r"(?:ies|ing|ed|es|s|e|y)$", "", word) if len(word) > 3 else word


def _as_sentence(answer: str) -> str:
    return capital(answer if answer[-1:] in '.!?"”)' else f"{answer}.")


def _named(question: str) -> str:
    """The longest name in a question, "" where it has none."""
    body = re.sub(r"^\W*\w+", "", question, count=1)  # its first word is capital anyhow
    return max(names_in(body), key=len, default="")
