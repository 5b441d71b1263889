"""The exam's score: strict both ways."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.data.tinyworld.config import PERSON_ATTRIBUTES, ExamConfig
from nanohydra.data.tinyworld.exam import Item, exam, score
from nanohydra.data.tinyworld.text import load
from nanohydra.data.tinyworld.world import World

KINDS = (
    "recall_unseen_wordings",
    "hallucination_unknown_people",
    "arithmetic_with_tool",
    "two_hop",
    "small_talk",
    "ages",
    "word_problems",
)


@cache
def items() -> list[Item]:
    return exam(World(0, attributes=PERSON_ATTRIBUTES), seed=1)


def of(check: str) -> list[Item]:
    return [item for item in items() if item.check == check]


def swap(item: Item, other: str) -> str:
    """The right answer with another value in place of the right one."""
    changed = re.sub(re.escape(item.truth.removeprefix("the ")), other, item.reference, flags=re.IGNORECASE)
    assert changed != item.reference
    return changed


any_item = st.sampled_from(range(400)).map(lambda i: items()[i * len(items()) // 400])


def right(item: Item) -> bool:
    return score(item, item.reference, used_calculator=item.check == "number")


@pytest.mark.parametrize("seed", range(3))
def test_the_authors_answers_are_right(seed: int) -> None:
    for item in exam(World(seed), seed=seed):
        assert right(item), item


def test_there_are_four_hundred_of_each_kind_and_they_differ() -> None:
    for seed in range(3):
        drawn = exam(World(seed), seed=seed + 100)
        count = Counter(item.kind for item in drawn)
        assert all(count[kind] == 400 for kind in KINDS), count
        assert count["no_pet"] >= 80
        assert len({(item.kind, item.question) for item in drawn}) == len(drawn)
        unknown = Counter(item.sub for item in drawn if item.kind == "hallucination_unknown_people")
        assert unknown["recombined"] == pytest.approx(400 / 3, abs=2)
        recall = [item for item in drawn if item.kind == "recall_unseen_wordings"]
        asked = {item.sub for item in recall}
        assert len(asked) >= 6
        digits = Counter(item.sub[2:3] for item in drawn if item.kind == "arithmetic_with_tool")
        assert set(digits) == {"2", "3", "4"}


def test_exams_differ_by_seed() -> None:
    world = World(0)
    one, other = ({item.question for item in exam(world, ExamConfig(items=100), seed)} for seed in (0, 1))
    assert len(one & other) < len(one) / 2


@settings(max_examples=200, deadline=None)
@given(any_item, any_item)
def test_the_answer_to_another_question_is_wrong(item: Item, other: Item) -> None:
    if item.truth == other.truth and item.check == other.check:
        return
    if item.check in ("refusal", "no pet") and other.check == item.check:
        return
    told = other.reference.casefold()
    if item.truth and item.truth.casefold() in told and any(name.casefold() in told for name in item.allowed):
        return  # "Selo's squirrel is called Yoyo" does tell what Selo's pet is
    assert not score(item, other.reference, used_calculator=other.check == "number")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_near_misses_of_values_are_wrong(data: st.DataObject) -> None:
    item = data.draw(st.sampled_from(of("value")))
    assert not score(item, "", False)
    assert not score(item, swap(item, ""), False)
    assert not score(item, item.reference, True)
    assert not score(item, f"I don't know. {item.reference}", False)
    assert not score(item, swap(item, item.truth.removeprefix("the ") + "s"), False)
    if item.forbidden:
        wrong = data.draw(st.sampled_from(item.forbidden))
        assert not score(item, swap(item, wrong), False)
        assert not score(item, f"{item.reference} Or {wrong}.", False)
    if item.truth.isdigit():
        assert not score(item, swap(item, item.truth.removeprefix("the ") + "0"), False)
        assert not score(item, f"{item.reference} Or {int(item.truth) + 1}.", False)
    if item.names:
        assert not score(item, f"{item.reference} Or Zelda Nobody.", False)
    assert score(item, item.reference.upper() if not item.names else item.reference, False)


def test_other_peoples_names_are_wrong_friends() -> None:
    world = World(0)
    friends = [item for item in items() if item.sub == "friend" and item.kind == "recall_unseen_wordings"]
    assert friends
    for item in friends:
        assert not score(item, swap(item, "Ann Other"), False)
        assert not score(item, f"{item.reference} And {world.people[0].name} or {world.people[1].name}.", False)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_refusals_hold_no_value(data: st.DataObject) -> None:
    item = data.draw(st.sampled_from(of("refusal")))
    assert score(item, "I do not know.", False)
    assert score(item, "I don\u2019t know that person.", False)
    assert not score(item, "", False)
    assert not score(item, f"{item.allowed[0]} is unknown to me.", False)
    assert not score(item, item.reference, True)
    assert not score(item, f"{item.reference} But it may be 1962.", False)
    if item.forbidden:
        wrong = data.draw(st.sampled_from(item.forbidden))
        assert not score(item, f"{item.reference} Perhaps {wrong}.", False)
    elif item.names:
        assert not score(item, f"{item.reference} Perhaps Zelda Nobody.", False)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(range(400)), st.integers(1, 99))
def test_sums_need_the_tool_and_the_right_number(index: int, off: int) -> None:
    item = of("number")[index]
    wrong = str(int(item.truth) + off)
    assert not score(item, item.reference, used_calculator=False)
    assert not score(item, f"The answer is {wrong}.", True) or wrong == item.truth
    assert not score(item, f"The answer is {item.truth}0.", True)
    assert not score(item, f"I don't know. {item.reference}", True)
    assert score(item, f"So it is {item.truth}!", True)
    known = {item.truth, *item.allowed, *"".join(c if c.isdigit() else " " for c in item.question).split()}
    if wrong not in known:
        assert not score(item, f"{item.reference} Or {wrong}.", True)


def test_no_pet_is_said_and_nothing_else() -> None:
    for item in of("no pet"):
        assert score(item, "There is no pet.", False)
        assert not score(item, "A pet.", False)
        assert not score(item, "No cat.", False)
        assert not score(item, "No pet but a cat.", False)
        assert not score(item, "I don't know of any; no pet.", False)


def test_every_intent_of_small_talk_is_told_from_every_other() -> None:
    talk = {item.sub: item for item in items() if item.kind == "small_talk"}
    intents = {intent: parts for intent, parts in load("smalltalk").items() if intent != "openers"}
    assert set(talk) == set(intents)
    for intent, item in talk.items():
        for other, parts in intents.items():
            assert all(score(item, answer, False) == (other == intent) for answer in parts["answers"])
        assert not score(replace(item), "I don't know.", False)


def test_small_talk_of_the_exam_is_from_other_lists() -> None:
    for intent, parts in load("smalltalk").items():
        assert not set(parts["questions"]) & set(parts["exam"]), intent
        assert len(parts["exam"]) >= 4
