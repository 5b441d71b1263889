"""The relations that teaching knows by their own wordings, and the general ones for everything else.

A relation's file entry names the attribute ("birthplace"), other names of it, what its values look like, statements (the
first is a fact's answer), questions (the first is a fact's question) and questions the other way round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from nanohydra.hydra.grammar import Slots
from nanohydra.hydra.material import plain
from nanohydra.hydra.text import load

NOUN, VERB, PAST, DESCRIPTION = "noun", "verb", "past", "description"


@dataclass(frozen=True)
class Relation:
    """The wordings of an attribute. In those of one with a {T}, "favourite {T}", the slot is still to be filled."""

    title: str
    nouns: tuple[str, ...]
    """The names of the attribute, the first as facts have it; with {T} where it has one."""
    value: str
    """The kind of its values: a function of `values.py`."""
    many: bool
    """Whether a subject may have several values at a time: two brothers, but one birthplace."""
    of: tuple[str, ...]
    """The words that {T} may be; empty: any."""
    statements: tuple[str, ...]
    reads: tuple[str, ...]
    questions: tuple[str, ...]
    reversed: tuple[str, ...]
    exam: tuple[str, ...]
    roundabout: tuple[str, ...] = ()
    """Questions that ask without the usual words."""

    @property
    def attribute(self) -> str:
        """The attribute's name, with {T} where it has one."""
        return self.nouns[0]

    @property
    def parametric(self) -> bool:
        """Whether the attribute has a {T}."""
        return "{T}" in self.attribute


@dataclass(frozen=True)
class Bound:
    """The relation of one attribute: its wordings and the slots that belong to the attribute."""

    relation: Relation
    slots: Slots


@cache
def relations() -> tuple[Relation, ...]:
    """The relations with wordings of their own, in the order in which sentences are tried on them."""
    exam, roundabout, general = load("exam"), load("roundabout"), load("wraps")
    found = []
    for title, parts in load("relations").items():
        nouns = tuple(parts["about"])
        statements, questions, asked = parts["statements"], parts["questions"], exam[title][""]
        if "{T}" not in nouns[0] and not nouns[0].startswith("what "):
            questions += tuple(
                _named(t, noun) for noun in nouns[:2] for t in general["noun"][""][: 9 if noun == nouns[0] else 3]
            )
            asked += tuple(_named(t, nouns[0]) for t in exam["noun"][""])
        found.append(
            Relation(
                title,
                nouns,
                parts.get("value", ("thing",))[0],
                "many" in parts,
                tuple(" ".join(parts.get("of", ())).split(" | ")) if "of" in parts else (),
                statements,
                parts.get("reads", ()),
                _distinct(questions),
                parts.get("reversed", ()),
                _distinct(asked),
                roundabout[title][""],
            )
        )
    return tuple(found)


@cache
def general(kind: str) -> Relation:
    """The wordings for an attribute without its own: a noun ("shoe size"), a verb ("collects", "invented") or what
    something is."""
    parts = load("wraps")
    many = kind in {VERB, PAST}
    return Relation(
        kind,
        ("description" if kind == DESCRIPTION else "{A}",),
        "phrase" if kind == DESCRIPTION else "thing",
        many,
        (),
        parts[f"{kind} statements"][""],
        (),
        parts[kind][""],
        parts.get(f"{kind} reversed", {"": ()})[""],
        load("exam")[kind][""],
        load("roundabout").get(kind, {"": ()})[""],
    )


@cache
def verbs() -> dict[str, tuple[str, str]]:
    """Attributes that are verbs -> (base form, kind): "collects" -> ("collect", "verb"), "won" -> ("win", "past")."""
    lists = load("verbs")
    found = {third_person(base): (base, VERB) for base in lists["present"][""]}
    for line in lists["past"][""]:
        words = line.split()
        half = len(words) // 2
        found[" ".join(words[half:])] = (" ".join(words[:half]), PAST)
    return found


def third_person(base: str) -> str:
    """ "collect" -> "collects", "work on" -> "works on", "carry" -> "carries"."""
    verb, _, rest = base.partition(" ")
    if verb == "have":
        verb = "has"
    elif re.search(r"[^aeiou]y$", verb):
        verb = verb[:-1] + "ies"
    else:
        verb += "es" if verb.endswith(("s", "sh", "ch", "x", "o")) else "s"
    return f"{verb} {rest}".strip()


@cache
def _by_noun() -> dict[str, Relation]:
    return {noun: relation for relation in reversed(relations()) for noun in relation.nouns if not relation.parametric}


@cache
def bind(attribute: str) -> Bound:
    """The relation of an attribute, whatever it is called: with wordings of its own, of its family, or general ones."""
    name = plain(attribute)
    if name in _by_noun():
        return Bound(_by_noun()[name], {})
    if name == "description":
        return Bound(general(DESCRIPTION), {})
    for relation in relations():
        if relation.parametric:
            for noun in relation.nouns:
                m = re.fullmatch(re.escape(noun).replace(r"\{T\}", "(.+)"), name)
                if m and (not relation.of or m[1] in relation.of):
                    return Bound(relation, {"T": m[1]})
    if name in verbs():
        base, kind = verbs()[name]
        return Bound(general(kind), {"verb": base, "verbs": name, "verbs3": name, "past": name})
    return Bound(general(NOUN), {"A": attribute})


def attribute_of(bound: Bound, name: str = "") -> str:
    """The attribute as facts have it; `name` where it is general."""
    return bound.relation.attribute.format_map(bound.slots | ({"A": name} if "A" not in bound.slots else {}))


def _named(template: str, noun: str) -> str:
    return template.replace("{A}", noun)


def _distinct(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(lines))


def without_of(relation: Relation) -> Relation:
    """The relation's wordings for "me", "us" and "you", of whom nothing is said to be "of"."""

    def kept(lines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(line for line in lines if "of {O}" not in line) or lines

    return replace(
        relation,
        statements=kept(relation.statements),
        questions=kept(relation.questions),
        exam=kept(relation.exam),
        roundabout=kept(relation.roundabout),
    )
