"""Who is named by a question, and which lesson it is for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.hydra.attributes import MASK, Attributes, usual_attributes, wordings
from nanohydra.hydra.facts import make_fact
from nanohydra.hydra.likeness import fact_text
from nanohydra.hydra.material import Fact
from nanohydra.hydra.names import Names, words
from nanohydra.hydra.router import Route, Router, Taught, Thresholds

MIRA = make_fact("Mira Solberg", "birthplace", "Trondheim")
WORK = make_fact("Mira Solberg", "employer", "the Silver Library")
LIBRARY = make_fact("the Silver Library", "founder", "Ola Ness")
JEAN = make_fact("Jean-Luc Öberg", "home", "Malmö")
OFFICE = make_fact("the office", "opening hours", "9 to 5")
SISTER = make_fact("my sister", "birthday", "3 March")
ME = make_fact("me", "favourite colour", "teal")
CODE = Fact("", "", "4417", "What is the code of the garage door?", "The code of the garage door is 4417.")
ROUTER = Router([Taught(1, [MIRA, WORK, LIBRARY]), Taught(2, [JEAN, OFFICE, SISTER, ME, CODE])])

GENERAL = """
What is the capital of Norway?
Write a short poem about the sea.
How do I boil an egg?
who invented the telephone
Can you explain photosynthesis to a child?
Give me three tips for better sleep.
What should I cook tonight?
Translate "good morning" into French.
My car does not start. What can I do?
Where was Albert Einstein born?
What is two plus two?
Who wrote Romeo and Juliet?
Tell me a joke about libraries.
I feel sad today.
What are the opening hours of a typical museum?
How old is the universe?
Which colour do you get from blue and yellow?
Is Trondheim a city?
List five Nordic countries.
Should I learn Python or Java?
How can I organise an office party?
What does a founder of a company do?
When does summer begin?
Name the code of conduct's main points.
Describe a garage.
What is a door?
Rewrite this sentence in the passive voice.
Who is the president of France?
Why do cats purr?
What is the best way to learn a language?
Recommend a book about Norway.
hello
thanks!
What can you do?
""".strip().splitlines()


@pytest.mark.parametrize(
    "question",
    [
        "Where was Mira Solberg born?",
        "where was mira solberg born",
        "WHERE WAS MIRA SOLBERG BORN?",
        "Where Was Mira Solberg Born?",
        "Mira Solberg's birthplace?",
        "Mira Solberg’s birthplace",
        "mira solbergs birthplace",
        "Do you know where Mira was born?",
        "where was mira born",
        "Where was Dr. Mira Solberg born?",
        "Is Trondheim where Solberg was born?",
        "The place that Míra Sólberg was born in, please.",
        "I like Mira Solberg. Where was she born?",
    ],
)
def test_names_as_people_write_them(question: str) -> None:
    route = ROUTER.route(question)
    assert (route.lesson_id, route.why, route.fact) == (1, "entity", MIRA), route


@pytest.mark.parametrize(
    "question",
    [
        "Where was Mira Solheim born?",
        "where was mira solheim born",
        "Where was Mira Solburg born?",
        "where was mira solberk born",
        "Where was Mara Solberg born?",
        "where was mara solberg born?",
        "Where was Anna Solberg born?",
        "Where was Anna Mira Solberg born?",
        "Where was Anna-Mira Solberg born?",
        "Where was Mira Solberg-Hansen born?",
        "Where was Mira Solberg Hansen born?",
        "Where was Mira Hansen born, and when?",
        "Where was Mira von Solheim born?",
        "Where was Miras Solberg born?",
        "Where was Tom Winter born?",
        "Who founded the Silver Lantern?",
        "Who founded the Golden Library?",
        "What is silver?",
    ],
)
def test_near_misses_name_nobody(question: str) -> None:
    assert ROUTER.route(question).lesson_id is None


def test_hyphens_accents_and_articles() -> None:
    assert ROUTER.route("where does jean luc oberg live").fact is JEAN
    assert ROUTER.route("Where does Jean-Luc live?").fact is JEAN
    assert ROUTER.route("Who founded the Silver Library?").fact is LIBRARY
    assert ROUTER.route("who is the silver library's founder").fact is LIBRARY


def test_a_first_name_of_two_people_names_neither() -> None:
    router = Router([Taught(1, [MIRA]), Taught(2, [make_fact("Mira Dahl", "birthplace", "Bergen")])])
    assert router.route("Where was Mira born?").lesson_id is None
    assert router.route("Where was Mira Dahl born?").lesson_id == 2
    context = [{"role": "user", "content": "Who is Mira Dahl?"}]
    assert router.route("Where was she born?", context).lesson_id == 2


def said(*turns: str) -> list[dict[str, str]]:
    return [{"role": role, "content": turn} for turn in turns for role in ("user", "assistant")]


def test_conversations() -> None:
    about = said("Where was Mira Solberg born?")
    assert ROUTER.route("And where does she work?", about).fact is WORK
    assert ROUTER.route("And where does she work?").lesson_id is None
    assert ROUTER.query("And where does she work?", about) == f"And where does {MASK} work?"
    assert ROUTER.query("And her employer?", about) == f"And {MASK}'s employer?"
    assert ROUTER.resolved("And where does she work?", about) == "Mira Solberg: And where does she work?"
    assert ROUTER.route("Does she speak English?", about).lesson_id == 1
    # Followed up twice, then a new topic, or somebody else, ends it.
    assert (
        ROUTER.route("What about her employer?", said("Who is Mira Solberg?", "And where was she born?")).fact is WORK
    )
    assert ROUTER.route("Where does she work?", said("Who is Mira Solberg?", "How do I boil an egg?")).lesson_id is None
    assert ROUTER.route("Where does she work?", said("Who is Mira Solberg?", "Who is Anna Berg?")).lesson_id is None
    assert ROUTER.route("Who is Anna Berg and where was she born?", about).lesson_id is None
    assert ROUTER.route("What is two plus two?", about).lesson_id is None


def test_facts_about_oneself_and_about_nothing_nameable() -> None:
    assert ROUTER.route("What is my favourite colour?").fact is ME
    assert ROUTER.route("What is your favourite colour?").lesson_id is None
    assert ROUTER.route("What is my sister's birthday?").fact is SISTER
    assert ROUTER.route("What is the code of the garage door?").fact is CODE


def test_a_value_that_is_named_and_asked_about() -> None:
    assert ROUTER.route("Who was born in Trondheim?").fact is MIRA
    assert ROUTER.route("Was Anna Berg born in Trondheim?").lesson_id is None


@pytest.mark.parametrize("prompt", GENERAL)
def test_general_prompts_go_to_the_base(prompt: str) -> None:
    route = ROUTER.route(prompt)
    assert (route.lesson_id, route.why) == (None, "none")


def test_the_newest_of_two_lessons_with_one_key() -> None:
    moved = make_fact("Mira Solberg", "birthplace", "Bergen")
    assert Router([Taught(1, [MIRA]), Taught(2, [moved])]).route("Where was Mira Solberg born?").fact is moved
    assert Router([Taught(1, [moved]), Taught(2, [MIRA])]).route("Where was Mira Solberg born?").fact is MIRA


def test_two_lessons_about_one_subject() -> None:
    router = Router([Taught(1, [MIRA]), Taught(2, [WORK])])
    assert router.route("In which town was Mira Solberg born?").lesson_id == 1
    assert router.route("Which employer does Mira Solberg have?").lesson_id == 2


def test_no_lessons() -> None:
    assert Router([]).route("Where was Mira Solberg born?").lesson_id is None
    assert Router([Taught(1, [])]).route("").lesson_id is None


LETTERS = st.text("abcdefghijklmnoprstuvzåøé", min_size=3, max_size=8).map(str.capitalize)


@settings(deadline=None)
@given(LETTERS, LETTERS, LETTERS, st.integers(0, 30))
def test_only_the_whole_name(first: str, last: str, other: str, cut: int) -> None:
    names = Names([f"{first} {last}"])
    for question in (f"where was {first} {last} born?", f"where was {first} {last} born?".lower()):
        assert [mention.sure for mention in names.find(question)] == [True]
    folded = [word.text for word in words(f"{first} {last} {other}")]
    changed = (last[: cut % len(last)] + "x" + last[cut % len(last) + 1 :]).capitalize()
    for stranger in (changed, other):
        if words(stranger)[0].text != folded[1] and folded[0] != folded[1] and stranger != first:
            assert not names.find(f"Where was {first} {stranger} born?")
            assert not names.find(f"where was {first} {stranger}x born?".lower())


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_can_be_asked(text: str) -> None:
    ROUTER.route(text, said(text, "Who is Mira Solberg?"))
    ROUTER.route(text, said("Who is Mira Solberg?"))
    for word in words(text):
        assert 0 <= word.begin < word.end <= len(text)


class Letters:
    """Stands for an embedder: texts with the same words have the same vectors."""

    def __call__(self, texts: list[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), 512), np.float32)
        for row, text in enumerate(texts):
            for word in words(text):
                vectors[row, sum(ord(c) * 31**i for i, c in enumerate(word.text)) % 512] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def test_questions_about_oneself_are_compared_as_those_about_others() -> None:
    mine = make_fact("me", "favourite colour", "teal")
    assert fact_text(mine) == f"What is {MASK}'s favourite colour? {MASK}'s favourite colour is teal."
    embed = Letters()
    router = Router.over([(1, [mine]), (2, [CODE])], embed)
    assert router.query("Which colour do I like, and my friends?") == (
        f"Which colour do {MASK} like, and {MASK}'s friends?"
    )

    def route(question: str) -> int | str | None:
        return router.route(question, (), embed([router.query(question)])[0]).lesson_id

    assert route("what is my favourite colour") == 1
    assert route("What is the favourite colour of most people?") is None
    assert route("What is my shoe size?") is None
    assert route(CODE.question) == 2


def test_whose_a_value_is_and_what_a_pet_is_called() -> None:
    embed = Letters()
    pet, name = make_fact("Tova Ek", "pet", "ferret"), make_fact("Tova Ek", "ferret's name", "Pickle")
    router = Router.over([(1, [MIRA]), (2, [pet, name])], embed)

    def route(question: str) -> Route:
        return router.route(question, (), embed([router.query(question)])[0])

    assert router.query("Who was born in Trondheim?") == f"Who was born in {MASK}?"
    assert router.query("What is Trondheim's population?") == "What is Trondheim's population?"
    assert route("What is the price of a ticket to Trondheim?").lesson_id is None
    assert route("What is the name of Tova Ek's pet?").fact == name
    assert route("What is Tova Ek's pet?").fact == pet


def test_vectors_see_what_is_asked_without_the_name() -> None:
    assert fact_text(MIRA) == f"Where was {MASK} born? {MASK} was born in Trondheim."
    assert ROUTER.query("Mira's birthplace?") == f"{MASK}'s birthplace?"
    embed = Letters()
    attributes = Attributes.usual(embed).plus([MIRA.attribute, "shoe size"], embed)
    assert "shoe size" in attributes.names
    assert set(usual_attributes()) <= set(attributes.names)
    assert all(MASK in text.casefold() for name in usual_attributes() for text in wordings(name))
    # The numbers are fitted to real embeddings; letters alone are less sure.
    router = Router([Taught(1, [MIRA], embed([fact_text(MIRA)]))], attributes, Thresholds(named=0.4))

    def route(question: str) -> int | str | None:
        return router.route(question, (), embed([router.query(question)])[0]).lesson_id

    assert route("In which town was Mira Solberg born?") == 1
    assert route("What is the shoe size of Mira Solberg?") is None
    assert route("Who is Mira Solberg?") == 1
