"""Sentences to facts, by rules: what the wordings of the relations read, and general patterns for the rest.

A sentence that nothing reads gives no fact; its passage keeps it for retrieval. Rather no fact than a wrong one: questions,
negations and guesses are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from nanohydra.hydra.grammar import (
    Reader,
    Slots,
    as_subject,
    capital,
    is_plural,
    names_in,
    reader,
    sentence,
    subject_slots,
    turned,
    with_article,
)
from nanohydra.hydra.material import ME, Fact
from nanohydra.hydra.relations import Bound, Relation, attribute_of, bind, relations, verbs, without_of
from nanohydra.hydra.sentences import VERBS, clauses, resolve, tidy
from nanohydra.hydra.text import words
from nanohydra.hydra.values import looks_like, read_value, trimmed

PRONOUNS = (ME, "us", "you")


@dataclass
class Context:
    """Whom the text speaks of, for the pronouns of the next sentence."""

    subject: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    """Parts of the full names so far -> the name, "" where several share the part: "Solberg" is Mira Solberg."""

    def tell(self, subject: str) -> None:
        """Notes whom a clause spoke of."""
        self.subject = subject
        parts = subject.split()
        if len(parts) > 1 and is_person(subject):
            for part in (parts[0], parts[-1]):
                self.names[part] = subject if self.names.get(part, subject) == subject else ""

    def in_full(self, text: str) -> str:
        """The sentence with the full name where it begins with a part of one."""
        m = re.match(r"([^\W\d_][\w-]*)(?=(?:'s)? (\w))", text)
        full = self.names.get(m[1], "") if m and not m[2].isupper() else ""
        return f"{full}{text[m.end() :]}" if full and m else text


def make_fact(subject: str, attribute: str, value: str, passage: int | None = None, answer: str = "") -> Fact:
    """The fact with its question and its answer (`answer` where it has a sentence of its own)."""
    bound = bind(attribute)
    relation = wordings_for(subject, bound.relation)
    question = sentence(relation.questions[0], slots(bound, subject, value))
    answer = answer or sentence(relation.statements[0], slots(bound, subject, value, answering=True))
    return Fact(subject, attribute_of(bound, attribute), value, question, answer, passage)


def wordings_for(subject: str, relation: Relation) -> Relation:
    """The relation with the wordings that suit the subject."""
    return without_of(relation) if subject in PRONOUNS else relation


def slots(bound: Bound, subject: str, value: str, answering: bool = False) -> Slots:
    """All slots of a fact's wordings, as the asking person says them or as the answering one does."""
    of_subject = subject_slots(subject, answering)
    said = turned(value) if answering else value
    found = of_subject | bound.slots | {"V": said, "aV": with_article(said)}
    if "verb" in bound.slots and of_subject["s"] == "" and bound.relation.title == "verb":
        found["verbs"] = bound.slots["verb"]
    described = bound.relation.title == "description" and is_person(value)
    who = "who" if described or is_person(subject) else "what"
    return found | {"who": who, "Who": capital(who)}


def is_person(subject: str) -> bool:
    """Whether one asks who, not what, this is: a guess by the look of the name."""
    if subject in PRONOUNS or re.match(r"(?:my|our|your) ", subject):
        return True
    if len(subject.split()) < 2 or names_in(subject) != [subject]:
        return False
    return not set(subject.split()) & words("parts of a thing's name")


def read_sentence(text: str, context: Context, passage: int | None = None) -> list[Fact]:
    """The facts of one sentence. `context` tells whom "she" means, and is told whom the sentence speaks of."""
    text = context.in_full(tidy(text))
    if not text or text.endswith("?"):
        return []
    facts: list[Fact] = []
    for clause in clauses(text, context.subject):
        subject, clause = resolve(clause, context.subject)
        found = list(_read_clause(clause, passage))
        facts += found
        # A fact may be about another than its sentence: "Oslo is the capital of Norway. It lies on a fjord."
        subject = subject or (found[0].subject if found else None)
        if subject and is_subject(subject):
            context.tell(as_subject(subject))
    return facts


def is_subject(text: str) -> bool:
    """Whether a phrase can be what a fact is about: a name, or words after an article or "my"."""
    if text in PRONOUNS:
        return True
    parts = text.split()
    if (
        not 0 < len(parts) <= 8
        or re.search(r"[,;:?!\"“”]|\s[-–—]\s", text)
        or parts[0].lower() in words("not a subject")
    ):
        return False
    if re.search(r" in \d{3,4}$| (?:also|known as) ", text):
        return False
    named = text[0].isupper() or text[0].isdigit() or text[0].lower() == text[0].upper()
    if not named and not (len(parts) > 1 and parts[0] in {"the", "my", "our", "your", "a", "an"}):
        return False
    return not any(part in VERBS for part in parts)


def _read_clause(clause: str, passage: int | None) -> Iterator[Fact]:
    lower = clause.lower()
    if re.search(rf"\b(?:{'|'.join(words('unsure'))})\b|n['’]t\b", lower):
        return
    for read in (_by_relations, _by_nouns, _by_verbs, _by_description):
        found = list(read(clause, lower))
        if found:
            for subject, attribute, value, answer in found:
                for one in _each(subject, clause):
                    if value.casefold() != one.casefold():
                        yield make_fact(one, attribute, value, passage, answer if one == subject else "")
            return


def _each(subject: str, clause: str) -> list[str]:
    """ "Mira and Ola" live somewhere: each of them does. "Smith and Sons" makes boats: one firm."""
    both = re.fullmatch(r"([A-Z][\w'’ -]*) and ([A-Z][\w'’ -]*)", subject)
    plural = is_plural(subject) and re.search(
        rf"{re.escape(subject)} (?:are|were|have|(?!was|is|has)\w+[^s\W])\b", clause
    )
    return [both[1], both[2]] if both and plural else [subject]


Found = tuple[str, str, str, str]  # subject, attribute, value, answer ("" for the relation's own)


def _by_relations(clause: str, lower: str) -> Iterator[Found]:
    for relation, read in sentence_readers():
        m = read.match(clause, lower)
        if m is None or "V" not in m or not is_subject(m["S"]):
            continue
        about = m.get("T", "")
        if about and not _may_be_about(relation, about):
            continue
        value = read_value(relation.value, m["V"])
        if value is None or (relation.title == "age" and not _has_age(m["S"])):
            continue
        if relation.title == "* name" and about.split()[-1] in words("animals"):
            yield m["S"], "pet", about, ""
        yield m["S"], relation.attribute.format(T=about), value, ""
        return


def _has_age(subject: str) -> bool:
    """ "Mira is 34" tells her age, "Mira's shoe size is 38" does not."""
    return subject in PRONOUNS or not (
        re.search(r"['’]s ", subject) or subject.split()[-1] in words("things with a value")
    )


def _may_be_about(relation: Relation, about: str) -> bool:
    if relation.of:
        return about in relation.of
    return about == about.lower() and not set(about.split()) & (words("not a subject") | {"a", "an", "the", "name"})


@cache
def sentence_readers() -> tuple[tuple[Relation, Reader], ...]:
    """What reads sentences, the wordiest first: the statements, and patterns for reading alone. Not those in which the
    value acts ("{V} wrote {O}"): a sentence is about its subject."""
    found = []
    for relation in relations():
        for template in (*relation.statements, *relation.reads):
            read = reader(template) if not re.match(r"\{V\} (?!is )", template) else None
            if read:
                found.append((relation, read))
    return tuple(sorted(found, key=lambda one: -len(one[1].literal)))


_NOUN_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<Sp>.+?['’]s|\w+s['’]|[Mm]y|[Oo]ur|[Yy]our) (?P<A>[\w'’-]+(?: [\w'’-]+){0,3}?) (?:is|are) (?P<V>.+?)[.!]*",
        r"[Tt]he (?P<A>[\w'’-]+(?: [\w'’-]+){0,3}?) (?:of|for) (?P<S>.+?) (?:is|are) (?P<V>.+?)[.!]*",
        r"(?P<S>.+?) (?:has|have) an? (?P<A>[\w-]+(?: [\w-]+){0,2}?) of (?P<V>.+?)[.!]*",
    )
)


def _by_nouns(clause: str, lower: str) -> Iterator[Found]:
    for pattern in _NOUN_PATTERNS:
        m = pattern.fullmatch(clause)
        if m is None:
            continue
        owner = m.groupdict().get("Sp")
        subject = as_subject(owner, possessive=True) if owner else as_subject(m["S"])
        value, name = trimmed(m["V"]), m["A"]
        if not value or not is_subject(subject) or name != name.lower() or len(value.split()) > 12:
            continue
        first = value.split()[0].lower()
        if first in words("state") or re.search(r"(?:ing|ed)$", first) or set(name.split()) & VERBS:
            continue
        yield subject, name, read_value("thing", value) or value, ""
        return


@cache
def _verb_pattern() -> re.Pattern[str]:
    known = {
        form for third, (base, kind) in verbs().items() for form in ((third, base) if kind == "verb" else (third,))
    }
    phrases = "|".join(sorted(map(re.escape, known), key=lambda v: (-len(v), v)))
    return re.compile(rf"(?P<S>.+?) (?P<verb>{phrases}) (?P<V>.+?)[.!]*")


@cache
def _third() -> dict[str, str]:
    return {base: third for third, (base, kind) in verbs().items() if kind == "verb"}


def _by_verbs(clause: str, lower: str) -> Iterator[Found]:
    m = _verb_pattern().fullmatch(clause)
    if m is None or not is_subject(subject := as_subject(m["S"])):
        return
    value = re.sub(r" (?:in|since) \d{4}$", "", trimmed(m["V"]))
    attribute = m["verb"] if m["verb"] in verbs() else _third()[m["verb"]]
    base_form = attribute != m["verb"]
    if not value or len(value.split()) > 12 or value.split()[0].lower() in words("state") - {"about"}:
        return
    if base_form and not (subject in PRONOUNS or is_plural(subject)):
        return
    yield subject, attribute, re.sub(r"^an? ", "", value) if attribute == "has" else value, ""


_DESCRIPTION = re.compile(r"(?P<S>.+?) (?P<is>is|are|am|was|were) (?P<V>.+?)[.!]*")


def _by_description(clause: str, lower: str) -> Iterator[Found]:
    m = _DESCRIPTION.fullmatch(clause)
    if m is None or not is_subject(subject := as_subject(m["S"])):
        return
    value = trimmed(m["V"])
    told = bool(re.match(r"(?:an?|the|my|our) \w", value)) and len(value.split()) <= 14
    named = looks_like("person", value) and subject.startswith(("the ", "my ", "our "))
    first = value.split()[0].lower() if value else ""
    plain = subject.split()[-1] in words("things with a value") and len(value.split()) <= 4
    if not value or not (told or named or (plain and first not in words("state"))):
        return
    past = m["is"] in {"was", "were"}
    answer = sentence("{S} {was} {V}.", subject_slots(subject, True) | {"V": turned(value)}) if past else ""
    yield subject, "description", value, answer
