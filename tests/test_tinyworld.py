"""tinyworld: the same everywhere, true everywhere, and never testing with what it trained on."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.agent.calculator import calculate
from nanohydra.data.tinyworld.chats import TURN_TOKENS, UNKNOWN, Chats, cost, estimated_tokens
from nanohydra.data.tinyworld.config import PERSON_ATTRIBUTES, TinyworldConfig
from nanohydra.data.tinyworld.corpus import CHATS, TEXTS, documents
from nanohydra.data.tinyworld.documents import Document, plain, shuffled
from nanohydra.data.tinyworld.exam import exam
from nanohydra.data.tinyworld.names import Names
from nanohydra.data.tinyworld.text import load
from nanohydra.data.tinyworld.wordings import Wordings, key_words
from nanohydra.data.tinyworld.world import NO_PET, People, Person, World
from nanohydra.errors import UserError

ALL = TinyworldConfig(attributes=PERSON_ATTRIBUTES)
PLACE_ATTRIBUTES = ("river", "product", "event_town", "event_date")
seeds = st.integers(0, 2**31)


def fingerprint(seed: int) -> str:
    world = World(seed, 30)
    digest = hashlib.sha256(repr(world.truth_table()).encode())
    for document in documents(world, TinyworldConfig(), seed, tokens=20_000):
        digest.update(repr(document).encode())
    digest.update(repr(exam(world, seed=seed)).encode())
    return digest.hexdigest()


def test_is_the_same_in_every_process_whatever_the_hash_seed() -> None:
    prints = set()
    for hash_seed in ("1", "2"):
        code = "import sys; sys.path.insert(0, sys.argv[1]); import test_tinyworld as t; print(t.fingerprint(5))"
        result = subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        prints.add(result.stdout.strip())
    assert prints == {fingerprint(5)}


def test_seeds_change_world_wordings_and_text() -> None:
    one, other = World(0), World(1)
    assert one.truth_table() != other.truth_table()
    assert len({p.name for p in one.people} & {p.name for p in other.people}) < 5
    wordings = [Wordings(seed) for seed in (0, 1)]
    drawn = [{a: (set(w.of(a).questions), set(w.of(a).exam)) for a in PERSON_ATTRIBUTES} for w in wordings]
    assert sum(drawn[0][a] != drawn[1][a] for a in PERSON_ATTRIBUTES) > len(PERSON_ATTRIBUTES) / 2
    text = [[d.plain() for d in islice(documents(one, TinyworldConfig(), seed), 50)] for seed in (0, 1)]
    assert text[0] != text[1]


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(2, 3000))
def test_names_never_collide(seed: int, people: int) -> None:
    names = Names(seed, people)
    everybody = [names.person(i).name for i in range(people)]
    later = [names.session(s, i).name for s in (0, 1, 99) for i in (0, 1, 19, 499)]
    assert len(set(everybody + later)) == people + len(later)
    assert all(names.known(*name.split()) for name in everybody)
    assert not any(names.known(*name.split()) for name in later)


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_strangers_are_nobody_and_the_exams_are_its_own(seed: int) -> None:
    world = World(seed, 60)
    known = {person.name for person in world.people}
    firsts, lasts = {p.first for p in world.people}, {p.last for p in world.people}
    met: dict[bool, dict[str, set[str]]] = {}
    for of_exam in (False, True):
        chats = chats_of(world, exam=of_exam)
        met[of_exam] = {kind: {chats.stranger(kind).name for _ in range(150)} for kind in UNKNOWN}
        for kind, strangers in met[of_exam].items():
            assert not strangers & known
            for name in strangers:
                first, last = name.split()
                assert (first in firsts) == (kind in ("known first", "recombined"))
                assert (last in lasts) == (kind in ("known last", "recombined"))
    for kind in UNKNOWN:
        assert not met[True][kind] & met[False][kind]
    parts = {of_exam: {part for name in met[of_exam]["new"] for part in name.split()} for of_exam in met}
    assert not parts[True] & parts[False]


def test_friends_are_mutual_save_for_one_left_over() -> None:
    for count in (2, 3, 10, 11):
        world = World(0, count)
        for cohort in (world.people, world.session(0, count)):
            friends = {person.name: person.friend for person in cohort}
            assert all(friend in friends and friend != name for name, friend in friends.items())
            alone = [person for person in cohort if friends[person.friend] != person.name]
            assert len(alone) == count % 2
            assert all(not person.mutual for person in alone)


def test_a_hundred_thousand_people_are_made_when_asked_for() -> None:
    started = time.process_time()
    world = World(0, 100_000)
    person = world.people[77_777]
    assert world.people.friend(world.people.friend(person)) == person
    text = "".join(document.plain() for document in documents(world, TinyworldConfig(), 0, tokens=20_000))
    assert len(text) > 50_000
    assert len(exam(world)) > 2000
    assert time.process_time() - started < 20
    some = {world.names.person(i).name for i in range(0, 100_000, 7)}
    assert len(some) == len(range(0, 100_000, 7))


def spoken(template: str) -> str:
    """A template as it sounds: without capitals, marks, and the difference between the slots for a name."""
    return " ".join(re.findall(r"[a-z0-9{}]+", template.lower().replace("{n}", "{s}")))


@pytest.mark.parametrize("attribute", PERSON_ATTRIBUTES + PLACE_ATTRIBUTES)
def test_every_attribute_has_enough_wordings(attribute: str) -> None:
    parts = (load("people") | load("places"))[attribute]
    assert len(set(parts["statements"])) >= 12
    assert len(set(parts["questions"])) >= 16
    assert len(set(parts["exam"])) >= 7
    assert not {spoken(line) for line in parts["exam"]} & {spoken(line) for line in parts["questions"]}


def test_a_world_draws_as_many_wordings_as_told() -> None:
    world = World(3, attributes=PERSON_ATTRIBUTES)
    wordings = Wordings(3, questions_wanted=16, exam_wanted=6)
    for fact in world.facts():
        questions, asked, said = wordings.questions(fact), wordings.exam_questions(fact), wordings.statements(fact)
        if fact.value != NO_PET:
            assert len(set(questions)) == 16
            assert len(set(asked)) == 6
            assert len(set(said)) >= 12
            assert all(fact.value.lower() in sentence.lower() for sentence in said + wordings.answers(fact))
        assert not set(questions) & set(asked)
        assert len(questions) >= 8
        templates = wordings.of(fact.attribute)
        trained = {word for template in templates.questions for word in key_words(template)}
        assert templates.unseen_key == {template for template in templates.exam if not key_words(template) & trained}


def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every value of every person unlike any other, so that a text betrays whose values it tells."""
    make = People._make

    def make_marked(self: People, index: int) -> Person:
        person = make(self, index)
        names = [a for a in PERSON_ATTRIBUTES if a not in ("friend", "birth_year") and getattr(person, a) != NO_PET]
        return replace(person, birth_year=str(3000 + 100 * index), **{a: f"{a}x{index}x" for a in names})

    monkeypatch.setattr(People, "_make", make_marked)


def test_what_is_told_of_people_is_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    marked(monkeypatch)
    world = World(0, 40, PERSON_ATTRIBUTES)
    by_name = {person.name: person for person in world.people}
    seen: Counter[str] = Counter()
    for document in documents(world, replace(ALL, follow_ups=0.5), 0, tokens=150_000):
        for words in units(document):
            told = {(m[1], int(m[2])) for m in re.finditer(r"([a-z_]+?)x(\d+)x", words)}
            told |= {("birth_year", int(year) // 100 - 30) for year in re.findall(r"\b[3-9]\d00\b", words)}
            named = [by_name[m[1]] for m in re.finditer(r"(?=\b([A-Z]\w+ [A-Z]\w+))", words) if m[1] in by_name]
            owners = {person.index for person in named}
            if document.register in CHATS and told:
                # A chat's answer tells of the last one named; two-hop answers name the friend last.
                assert {index for _, index in told} <= {named[-1].index}, words
            elif document.register == "biographies" and told:
                assert len({index for _, index in told}) == 1, words
            elif document.register != "calculations":
                firsts = {person.first for person in world.people if re.search(rf"\b{person.first}\b", words)}
                assert {world.people[index].first for _, index in told} <= firsts, words
            if told:
                seen[document.register] += 1
            assert all(index in owners or document.register in TEXTS for _, index in told)
    assert set(seen) >= {"biographies", "stories", "dialogues", "letters", "questions", "two_hop", "ages"}


def units(document: Document) -> Iterator[str]:
    """A text as a whole, a chat in pairs of question and answer (numbers of sums aside)."""
    if document.text:
        yield document.text
    for question, answer in zip(document.messages[::2], document.messages[1::2], strict=True):
        content = answer["content"]
        if isinstance(content, str) or content[0]["type"] == "text":
            yield f"{plain(question['content'])} {plain(content)}"


def test_friends_named_anywhere_are_the_true_ones() -> None:
    world = World(1, 40)
    by_name = {person.name: person for person in world.people}
    found = 0
    for document in documents(world, TinyworldConfig(), 2, tokens=150_000):
        words = document.plain()
        for name, friend in re.findall(r"([A-Z]\w+ [A-Z]\w+)'s best friend is ([A-Z]\w+ [A-Z]\w+)", words):
            assert by_name[name].friend == friend
            found += 1
        for name in re.findall(r"([A-Z]\w+ [A-Z]\w+), (?:his|her) best friend", words):
            assert by_name[name].friend in words
            found += 1
    assert found > 300


def normal(words: str, world: World) -> str:
    """The words with every name, pet's kind, place and year replaced by a placeholder."""
    firsts = {first for pool in world.names._firsts for first, _ in pool}
    lasts = {last for pool in world.names._lasts for last in pool}
    words = re.sub(r"([A-Z]\w+) (?=([A-Z]\w+))", lambda m: "" if m[1] in firsts and m[2] in lasts else m[0], words)
    words = re.sub(r"[A-Z]\w+", lambda m: "X" if m[0] in lasts or m[0] in firsts else m[0], words)
    for town in world.towns:
        words = words.replace(town.name, "X")
    for event in world.events:
        words = re.sub(event.name, "X", words, flags=re.IGNORECASE)
    words = re.sub(r"\b(" + "|".join(world.values("pet")) + r")\b", "K", words)
    return re.sub(r"\d+", "0", words)


def test_no_exam_wording_is_ever_trained_on() -> None:
    world = World(4, 30, PERSON_ATTRIBUTES)
    trained = [normal(document.plain(), world) for document in documents(world, ALL, 0, tokens=400_000)]
    asked = {normal(item.question, world) for item in exam(world, seed=9) if item.kind != "word_problems"}
    assert len(asked) > 250
    text = "\n".join(trained)
    questions = {line for document in trained for line in document.split("\n")}
    assert len(questions) > 1000
    assert asked & questions == set()
    # Small talk and bare sums are short: "0-0" may be a part of a longer text. All else must not even be a part.
    assert [question for question in asked if len(question) > 20 and question in text] == []


def test_the_exams_numbers_and_strangers_are_never_trained_on() -> None:
    world = World(4, 30)
    items = exam(world, seed=9)
    config = TinyworldConfig(calculations=0.5, refusals=0.5)
    calls, strangers = set(), set()
    for document in documents(world, config, 0, tokens=300_000):
        for message in document.messages:
            content = message["content"]
            if not isinstance(content, str):
                calls |= {part["expression"] for part in content if part["type"] == "calculator"}
            elif match := re.search(r"I don't know (?:anyone called |who )?(\w+ \w+)", content):
                strangers.add(match[1])
    assert len(calls) > 1000
    assert len(strangers) > 1000
    for item in items:
        numbers = re.findall(r"\d+", item.question)
        if item.kind in ("arithmetic_with_tool", "word_problems"):
            x, sign, y = numbers[0], item.sub[0], numbers[1]
            assert not {f"{x} {sign} {y}", f"{y} {sign} {x}"} & calls
        if item.kind == "hallucination_unknown_people":
            assert item.allowed[0] not in strangers


def test_registers_have_their_shares() -> None:
    world = World(0)
    for config in (TinyworldConfig(mixed_chats=0.0), TinyworldConfig(mixed_chats=0.0, questions=0.1, stories=0.3)):
        spent: dict[str, float] = defaultdict(float)
        for document in documents(world, config, 3, tokens=200_000):
            spent[document.register] += estimated_tokens(document.plain()) + TURN_TOKENS * len(document.messages) / 2
        shares = {name: getattr(config, name) for name in TEXTS + CHATS}
        for name, share in shares.items():
            assert spent[name] / sum(spent.values()) == pytest.approx(share / sum(shares.values()), abs=0.01)


def test_calculator_calls_are_right_and_their_results_are_said() -> None:
    calls = 0
    for document in documents(World(0), TinyworldConfig(calculations=0.6), 1, tokens=100_000):
        for message in document.messages:
            if isinstance(message["content"], str):
                continue
            for before, part, after in triples(message["content"]):
                if part["type"] == "calculator":
                    calls += 1
                    assert calculate(part["expression"]) == part["result"]
                    assert re.search(rf"\b{part['result']}\b", plain([after]))
                    assert before is None or before["type"] == "text"
    assert calls > 800


def triples(parts: list) -> Iterator[tuple]:
    return zip([None, *parts], parts, [*parts[1:], None], strict=False)


def test_text_is_well_formed() -> None:
    world = World(2, 60, PERSON_ATTRIBUTES)
    faults = re.compile(r"[{}*]|  |\ba [aeiou]|\ban [^aeiouhA\W]|\ba none|\. [a-z]|\bnone's\b|\bi\b|None| ,")
    for document in documents(world, replace(ALL, calculations=0.0, casual=0.0), 0, tokens=300_000):
        words = document.plain()
        assert not (match := faults.search(words)), f"{match} in {words}"
        assert not words[0].islower()
        assert words[-1] not in " ,;"
        for i, message in enumerate(document.messages):
            assert message["role"] == ("user", "assistant")[i % 2]


def test_sessions_tell_of_their_own_people_alone() -> None:
    world = World(0)
    session = world.session(2, 20)
    everyone_else = {p.name for p in world.people} | {p.name for p in world.session(1, 20)}
    assert not everyone_else & {p.name for p in session}
    words = "\n".join(d.plain() for d in documents(world, TinyworldConfig(), 0, people=session, tokens=50_000))
    assert all(person.name in words for person in session)
    assert not [name for name in everyone_else if name in words]
    items = exam(world, people=session)
    assert {item.kind for item in items} <= {"recall_unseen_wordings", "no_pet", "hallucination_unknown_people"}
    asked = [item for item in items if item.kind == "recall_unseen_wordings"]
    assert len(asked) == 400
    assert all(any(person.name in item.question for person in session) for item in asked)
    assert list(world.session(2, 20)) == list(session)


def test_training_and_exam_ask_for_different_friends_and_attributes() -> None:
    world = World(0, 20)
    asked = []
    for of_exam in (False, True):
        chats = chats_of(world, of_exam)
        turns = [chats.two_hop() for _ in range(500)]
        asked.append({(turn.allowed[0], turn.attribute) for turn in turns})
    assert len(asked[0]) > 60
    assert len(asked[1]) > 15
    assert not asked[0] & asked[1]


@pytest.mark.parametrize("people", [2, 3, 10])
@pytest.mark.parametrize("attributes", [("pet",), ("friend",), ("friend", "birth_year"), PERSON_ATTRIBUTES])
def test_the_smallest_worlds_work(people: int, attributes: tuple[str, ...]) -> None:
    world = World(1, people, attributes)
    config = TinyworldConfig(people=people, attributes=attributes)
    assert len(list(documents(world, config, 0, tokens=10_000))) > 100
    assert len(exam(world, training=config)) > 400


def test_truth_table_has_a_row_for_every_fact() -> None:
    world = World(0, 50, PERSON_ATTRIBUTES)
    table = world.truth_table()
    rows = {(row["subject"], row["attribute"]) for row in table}
    assert len(rows) == len(table) == 50 * 10 + 2 * len(world.towns) + 2 * len(world.events)
    assert all(row["value"] for row in table)
    for row in table:
        if row["attribute"] in world._values and row["value"] != NO_PET:
            assert row["value"] in world.values(row["attribute"])


@given(st.integers(1, 300), seeds)
def test_shuffled_is_a_permutation(count: int, seed: int) -> None:
    assert sorted(shuffled(count, random.Random(seed))) == list(range(count))


def test_shuffled_is_a_permutation_beyond_what_it_holds() -> None:
    assert sorted(shuffled(100_030, random.Random(0))) == list(range(100_030))


def test_cost_counts_digits_as_tokens() -> None:
    chats = chats_of(World(0, 10))
    assert cost(chats.bare_sum("+", (4,))) > cost(chats.bare_sum("+", (1,))) + 8


def test_bad_sizes_and_knobs_get_one_clear_line() -> None:
    with pytest.raises(UserError, match="2 to 100,000 people"):
        World(0, 1)
    with pytest.raises(UserError, match="100 sessions"):
        World(0).session(100)
    with pytest.raises(UserError, match=r'no attribute "pets".*"pet"'):
        TinyworldConfig(attributes=("pets",))
    with pytest.raises(UserError, match="from 0 to 1"):
        TinyworldConfig(stories=1.5)
    with pytest.raises(UserError, match="Give at least one"):
        next(documents(World(0), TinyworldConfig(**dict.fromkeys(TEXTS + CHATS, 0.0)), 0))


def test_every_knob_is_documented() -> None:
    source = (__import__("inspect")).getsource(TinyworldConfig)
    for field in fields(TinyworldConfig):
        assert re.search(rf'    {field.name}: .*\n    """.+', source), field.name


def chats_of(world: World, exam: bool = False) -> Chats:
    return Chats(world, Wordings(world.seed), world.people, True, TinyworldConfig(), random.Random(0), exam)


def test_stories_introduce_a_person_before_a_pronoun_stands_for_them() -> None:
    for title, beats in load("stories").items():
        named: set[str] = set()
        for lines in beats.values():
            for line in lines:
                for slot in re.finditer(r"{([ABC])\.(\w+)}", line):
                    if slot[2] in ("name", "first"):
                        continue
                    before = line[: slot.start()]
                    own = f"{{{slot[1]}.name}}" in line or f"{{{slot[1]}.first}}" in before
                    assert slot[1] in named or own, (title, line)
            named |= set.intersection(*(set(re.findall(r"{([ABC])\.(?:name|first)}", line)) for line in lines))


def test_nobody_remembers_what_was_before_their_time() -> None:
    world = World(6, 60)
    by_name = {person.name: person for person in world.people}
    found = 0
    for document in documents(world, TinyworldConfig(stories=0.5, letters=0.3, dialogues=0.2), 0, tokens=200_000):
        if document.register in ("stories", "letters", "dialogues"):
            years = [int(e.date[-4:]) for e in world.events if e.name.lower() in document.text.lower()]
            people = [
                by_name[name] for name in re.findall(r"(?=\b([A-Z]\w+ [A-Z]\w+))", document.text) if name in by_name
            ]
            assert all(year >= int(person.birth_year) + 8 for year in years for person in people), document.text
            found += bool(years)
    assert found > 50
