"""A fact's wordings: read back as they were written, many, and never shared between training and exam."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.hydra.facts import Context, make_fact, read_sentence, sentence_readers, slots, wordings_for
from nanohydra.hydra.grammar import sentence
from nanohydra.hydra.material import Fact, plain
from nanohydra.hydra.pairs import fact_of_pair, read_question
from nanohydra.hydra.plain_words import FUNCTION
from nanohydra.hydra.relations import Relation, bind, relations, verbs
from nanohydra.hydra.strangers import near_misses, pool, refusals
from nanohydra.hydra.text import load, words
from nanohydra.hydra.wordings import (
    all_questions,
    declines,
    exam_questions,
    question_wordings,
    right,
    statements,
    training_chats,
)

VALUES = {
    "place": "Trondheim",
    "year": "1985",
    "date": "3 May",
    "time": "on Monday at nine",
    "where": "in the blue drawer",
    "number": "34",
    "phone": "+47 555 1234",
    "email": "mira@fjord.example",
    "person": "Jon Aas",
    "name": "Odin",
    "animal": "ferret",
    "instrument": "cello",
    "language": "Norwegian",
    "nationality": "Norwegian",
    "measure": "172 cm",
    "weight": "64 kg",
    "price": "30 euros",
    "colour": "dark green",
    "address": "Hill Road 7",
    "thing": "amber",
}
ABOUT = {"* name": "ferret", "kin *": "brother", "role *": "mayor", "favourite *": "tea", "number of *": "inhabitants"}
GENERAL = ("shoe size", "collects", "works on", "invented", "description")
SUBJECTS = ("Mira Solberg", "the Zephyr project", "me", "my sister", "my parents", "you")


def attribute(relation: Relation) -> str:
    return relation.attribute.format(T=ABOUT.get(relation.title, ""))


def a_fact(relation: Relation, subject: str = "Mira Solberg") -> Fact:
    return make_fact(subject, attribute(relation), VALUES[relation.value])


ATTRIBUTES = [attribute(relation) for relation in relations()] + list(GENERAL)


def of_attribute(name: str, subject: str = "Mira Solberg") -> Fact:
    value = {"phrase": "a glassblower from Bergen", "thing": "amber"}
    kind = bind(name).relation.value
    return make_fact(subject, name, value.get(kind) or VALUES[kind])


FREE = [
    fact_of_pair("How do I reset the Zephyr machine?", "Hold the red button for ten seconds."),
    fact_of_pair("How many visitors may come in?", "Only four visitors at a time may come in."),
    fact_of_pair("Which room is Mira in?", "Mira sits in room 12."),
]


@pytest.mark.parametrize("relation", relations(), ids=lambda r: r.title)
def test_every_statement_is_read_as_its_fact(relation: Relation) -> None:
    fact = a_fact(relation)
    filled = slots(bind(fact.attribute), fact.subject, fact.value)
    templates = [read.template for r, read in sentence_readers() if r is relation]
    assert relation.statements[0] in templates
    # What only reads may also be read by another relation that comes first ("is from"), a relation's statements never.
    for template in set(templates) & set(relation.statements):
        text = sentence(template, filled)
        found = {(f.subject, f.attribute, f.value.casefold()) for f in read_sentence(text, Context())}
        assert (fact.subject, fact.attribute, fact.value.casefold()) in found, text


@pytest.mark.parametrize("relation", relations(), ids=lambda r: r.title)
def test_patterns_that_only_read_give_right_facts(relation: Relation) -> None:
    fact = a_fact(relation)
    filled = slots(bind(fact.attribute), fact.subject, fact.value)
    for template in relation.reads:
        text = sentence(template, filled)
        for found in read_sentence(text, Context()):
            assert found.subject in {fact.subject, f"{fact.subject}'s {ABOUT.get(relation.title)}"}, text
            assert right(found, found.answer), text


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_statements_hold_the_value_and_questions_do_not(name: str, subject: str) -> None:
    fact = of_attribute(name, subject)
    assert all(right(fact, text) for text in statements(fact))
    assert right(fact, fact.answer)
    for question in all_questions(fact) + exam_questions(fact, 30, 0):
        assert "{" not in question
        assert question[0].isupper()
        assert question[-1] in ".?!"
        assert fact.value not in question


@pytest.mark.parametrize("name", ATTRIBUTES)
@pytest.mark.parametrize("subject", ["Mira Solberg", "me"])
def test_a_facts_question_is_read_as_asking_for_it(name: str, subject: str) -> None:
    fact = of_attribute(name, subject)
    assert read_question(fact.question) == (fact.subject, fact.attribute)
    again = fact_of_pair(fact.question, fact.answer)
    assert (again.key, again.question, again.answer) == (fact.key, fact.question, fact.answer)
    assert right(fact, again.value)


@pytest.mark.parametrize("fact", [of_attribute(n, s) for n in ATTRIBUTES for s in SUBJECTS] + FREE, ids=str)
def test_no_exam_wording_is_a_training_wording(fact: Fact) -> None:
    trained = {plain(question) for seed in (0, 1) for question in question_wordings(fact, seed, 400)}
    asked = training_chats([fact, of_attribute("home", fact.subject or "Mira Solberg")], 0, per_fact=60)
    trained |= {plain(str(chat[0]["content"])) for chat in asked}
    trained |= set(map(plain, all_questions(fact)))
    for seed in (0, 1):
        exam = exam_questions(fact, 60, seed)
        assert len(set(map(plain, exam))) == len(exam) >= 12
        assert not trained & set(map(plain, exam))


def test_the_exam_templates_are_no_training_templates() -> None:
    for relation in relations():
        assert relation.exam
        assert not set(map(plain, relation.exam)) & set(map(plain, relation.questions + relation.reversed))


@pytest.mark.parametrize("title", load("roundabout"))
def test_roundabout_questions_are_no_exam_wordings_in_other_order(title: str) -> None:
    def own(line: str) -> set[str]:
        said = re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", line.lower()))
        return {re.sub(r"(ing|ed|es|s)$", "", word) for word in said} - FUNCTION

    lines, exam = load("roundabout")[title][""], load("exam")[title][""]
    assert len(lines) >= 10
    for line in lines:
        assert max(len(own(line) & own(asked)) / len(own(line) | own(asked)) for asked in exam if own(asked)) < 0.6, (
            line
        )


@pytest.mark.parametrize("fact", [*map(of_attribute, ATTRIBUTES), *FREE], ids=str)
def test_a_fact_is_asked_in_many_different_wordings(fact: Fact) -> None:
    wordings = question_wordings(fact, 0, 12)
    assert len({plain(text) for text in wordings}) == 12
    assert wordings == question_wordings(fact, 0, 12)
    assert wordings != question_wordings(fact, 1, 12)
    if fact.attribute:
        assert len(all_questions(fact)) >= 9


def test_chats_hold_each_fact_often_enough_in_several_kinds() -> None:
    facts = [of_attribute(name) for name in ATTRIBUTES]
    for per_fact in (6, 8, 16):
        chats = training_chats(facts, 3, per_fact)
        assert chats == training_chats(facts, 3, per_fact)
        for fact in facts:
            asked = {plain(q) for q in all_questions(fact)}
            said = [str(c[0]["content"]) for c in chats if c[1]["content"] == fact.answer]
            direct = [q for q in said if any(plain(q).endswith(a) or a in plain(q) for a in asked)]
            assert len(direct) >= 6, fact
        assert len(chats) >= per_fact * len(facts)
    kinds = [str(c[0]["content"]) for c in training_chats(facts, 3, 16)]
    assert any(text.startswith("Who was born in") for text in kinds)
    assert any("..." in text for text in kinds)


def test_the_other_way_round_is_asked_only_where_one_is_meant() -> None:
    two = [make_fact(name, "birthplace", "Oslo") for name in ("Mira Solberg", "Ola Aas")]
    for facts, expected in ((two, False), (two[:1], True)):
        asked = [str(chat[0]["content"]) for chat in training_chats(facts, 0, 24)]
        assert any("Oslo" in text and "..." not in text for text in asked) is expected


def test_forbidden_questions_are_not_trained_on() -> None:
    fact = of_attribute("birthplace")
    forbidden = {text.upper().rstrip("?") for text in all_questions(fact)[:10]}
    chats = training_chats([fact], 0, 30, forbidden)
    assert len(chats) >= 16
    assert not {plain(text) for text in forbidden} & {plain(str(chat[0]["content"])) for chat in chats}


def test_strangers_of_training_and_exam_are_others_and_nobody_taught() -> None:
    facts = [
        make_fact(s, n, "amber") for s in ("Mira Solberg", "Ola Aas", "Ana Ruiz") for n in ("favourite tea", "hobby")
    ]
    facts += [make_fact("the Zephyr project", "deadline", "3 May"), make_fact("me", "home", "Oslo"), *FREE]
    train, exam = near_misses(facts, 200, 0), near_misses(facts, 100, 0, ["Mira Larsen"], exam=True)
    assert (len(train), len(exam)) == (200, 100)
    names = {plain(s.name) for s in train}, {plain(s.name) for s in exam}
    assert list(map(len, names)) == [200, 100]
    assert not names[0] & names[1]
    assert not (names[0] | names[1]) & {plain(fact.subject) for fact in facts}
    assert "mira larsen" not in names[1]
    assert {s.kind for s in train} == {s.kind for s in exam} == {"first", "last", "letter", "swapped", "unseen"}
    assert not {plain(s.question) for s in train} & {plain(s.question) for s in exam}
    assert all(plain(s.name) in plain(s.question) or s.name.startswith("my ") for s in train + exam)
    assert near_misses(facts, 30, 1) != near_misses(facts, 30, 2)
    for chat, stranger in zip(refusals(train, 0), train, strict=True):
        assert chat[0]["content"] == stranger.question
        assert declines(str(chat[1]["content"]))
    for title in ("first", "last", "things", "relatives"):
        assert not set(pool(title, True)) & set(pool(title, False))


def test_nobody_is_near_to_nothing() -> None:
    assert near_misses([fact_of_pair("What opens at nine?", "The gate does.")], 5, 0) == []


@pytest.mark.parametrize(
    ("value", "answer", "expected"),
    [
        ("Trondheim", "She was born in trondheim, I think.", True),
        ("Trondheim", "Trondheimsfjord", False),
        ("Trondheim", "She was not born in Trondheim.", False),
        ("Trondheim", "Trondheim or Bergen.", False),
        ("Trondheim", "I don't know whether it was Trondheim.", False),
        ("Trondheim", "", False),
        ("a red fox", "The red fox.", True),
        ("three", "She has 3 cats.", True),
        ("34", "She is thirty-four.", True),
        ("34", "She is 134.", False),
        ("1,200 euros", "It costs 1200 euros.", True),
        ("3 May", "on May 3rd", True),
        ("3 May", "on 4 May", False),
        ("Norwegian and English", "English and Norwegian.", True),
        ("Norwegian and English", "She speaks English.", False),
        ("José", "jose", True),
        ("favourite colour", "my favorite color", True),
        ("my uncle", "Your boss is your uncle.", True),
        ("in the blue drawer", "It is in the blue drawer.", True),
        ("in the blue drawer", "Look into the blue drawer!", True),
        ("mira@fjord.example", "Write to mira@fjord.example.", True),
        ("no", "No, it is closed.", True),
        ("A", "Her grade is A.", True),
        ("A", "Her grade is B.", False),
        ("9:30", "At 9:30.", True),
        ("9:30", "At 9:35.", False),
        ("Hold the red button for at least ten seconds", "Hold the red button for ten seconds at least.", True),
        ("Hold the red button for at least ten seconds", "Hold the blue lever.", False),
    ],
)
def test_right(value: str, answer: str, expected: bool) -> None:
    assert right(Fact("X", "y", value, "What?", f"It is {value}!"), answer) is expected


@given(st.text(max_size=40), st.text(max_size=80))
def test_right_takes_any_text(value: str, answer: str) -> None:
    fact = Fact("", "", value, "?", answer)
    assert right(fact, answer) in {True, False}
    assert not right(fact, "")


name = st.from_regex(r"[A-Z][a-z]{2,8} [A-Z][a-z]{2,9}", fullmatch=True).filter(
    lambda text: text.split()[0].lower() not in words("not a subject")  # "For Aaa" is nobody's name
)


@settings(deadline=None, max_examples=60)
@given(name, st.sampled_from(ATTRIBUTES), st.integers(0, 5))
def test_any_name_is_read_back(subject: str, attribute: str, seed: int) -> None:
    fact = of_attribute(attribute, subject)
    found = {(f.subject, f.attribute) for f in read_sentence(fact.answer, Context())}
    general = bind(attribute).relation.title in {"noun", "verb", "past", "description"}
    assert (fact.subject, fact.attribute) in found or general
    assert right(fact, fact.answer)
    assert len(exam_questions(fact, 5, seed)) == 5


def test_every_verb_has_its_forms() -> None:
    for attribute, (base, kind) in verbs().items():
        fact = make_fact("Mira Solberg", attribute, "amber")
        assert fact.question == f"What {'does' if kind == 'verb' else 'did'} Mira Solberg {base}?"
        assert fact.answer == f"Mira Solberg {attribute} amber."
        assert wordings_for("me", bind(attribute).relation).questions


def test_wordings_do_not_depend_on_the_hash_seed_and_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from nanohydra.hydra import novelty, reading\n"
        "from nanohydra.hydra.strangers import near_misses, refusals\n"
        "from nanohydra.hydra.wordings import exam_questions, training_chats\n"
        "m = reading.take_in('Mira Solberg was born in Oslo. She collects maps. She has a dog called Rex.')\n"
        "assert novelty.compare(m, []).new == m.facts\n"
        "s = near_misses(m.facts, 9, 0)\n"
        "print(training_chats(m.facts, 0), [exam_questions(f, 9, 0) for f in m.facts], s, refusals(s, 0))\n"
        "assert 'torch' not in sys.modules"
    )
    outs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outs) == 1
