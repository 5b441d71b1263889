"""The exam: questions in wordings and with draws that training never has, and a strict score for each answer.

Use:
    for item in exam(World(0), seed=1):
        ok = score(item, answer_text, used_calculator)
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from nanohydra.data.chat import Message
from nanohydra.data.tinyworld.chats import UNKNOWN, Chats, Turn
from nanohydra.data.tinyworld.config import ExamConfig, TinyworldConfig
from nanohydra.data.tinyworld.documents import shuffled, user
from nanohydra.data.tinyworld.text import load
from nanohydra.data.tinyworld.wordings import Wordings
from nanohydra.data.tinyworld.world import NO_PET, People, World

Check = Literal["value", "refusal", "no pet", "number", "phrase"]


@dataclass(frozen=True)
class Item:
    """One question of the exam."""

    kind: str
    """recall_unseen_wordings, no_pet, hallucination_unknown_people, arithmetic_with_tool, two_hop, ages, ..."""
    sub: str
    """A finer kind: the attribute, the kind of unknown name, sign and digits, the intent."""
    messages: list[Message]
    truth: str
    """What a right answer holds; "" where it should be refused."""
    check: Check
    """Which rule of score() applies."""
    forbidden: tuple[str, ...] = ()
    """What no right answer holds: the other values of the attribute, the marks of other intents."""
    allowed: tuple[str, ...] = ()
    """Names that an answer may hold although they look like, or are, another value."""
    names: bool = False
    """Whether any full name besides the allowed ones, the truth and those of the question makes an answer wrong."""
    reference: str = ""
    """A right answer in the author's words, without calculator calls."""
    unseen_key: bool = False
    """Whether the wording has none of the key words of its attribute's training questions."""

    @property
    def question(self) -> str:
        """The user's words."""
        return str(self.messages[-1]["content"])


def exam(
    world: World,
    config: ExamConfig | None = None,
    seed: int = 0,
    people: People | None = None,
    training: TinyworldConfig | None = None,
) -> list[Item]:
    """Draws the exam.

    Args:
        people: a session's people, to ask about them alone (recall, no_pet and unknown people); by default everything.
        training: the config of the training text, which knows what of the two-hop questions was held out.
    """
    config, training = config or ExamConfig(), training or TinyworldConfig()
    rng = random.Random(f"tinyworld/{world.seed}/exam/{seed}")
    cohort = world.people if people is None else people
    wordings = Wordings(world.seed, training.question_wordings, config.wordings)
    chats = Chats(world, wordings, cohort, people is None, training, rng, exam=True)
    recall, no_pet = _recall(world, wordings, cohort, people is None, chats, config.items, rng)
    items = recall + no_pet

    def unknown(i: int) -> Item:
        turn = chats.refusal((UNKNOWN[0], UNKNOWN[1 + i // 3 % 2], UNKNOWN[3])[i % 3])
        return _item(world, "hallucination_unknown_people", turn, "refusal")

    items += _draw(config.items, unknown)
    if people is not None:
        return items
    if len(world.attributes) > ("friend" in world.attributes) > 0:
        items += _draw(config.items, lambda _: _two_hop(world, chats.two_hop()))
    if "birth_year" in world.attributes:
        items += _draw(config.items, lambda _: _item(world, "ages", chats.age(), "number"))
    digits = (2, 3, 4)
    items += _draw(
        config.items, lambda i: _item(world, "arithmetic_with_tool", chats.bare_sum("+-"[i % 2], digits), "number")
    )
    items += _draw(config.items, lambda _: _item(world, "word_problems", chats.problem(), "number"))
    talk = load("smalltalk")
    intents = [intent for intent in talk if intent != "openers"]

    def small_talk(i: int) -> Item:
        item = _item(world, "small_talk", chats.small_talk(intents[i % len(intents)]), "phrase")
        return replace(item, forbidden=tuple(talk[intent]["accept"][0] for intent in intents if intent != item.sub))

    return items + _draw(config.items, small_talk)


def score(item: Item, answer: str, used_calculator: bool) -> bool:
    """Whether an answer is right, strictly.

    Args:
        answer: the assistant's words, without the calculator's calls and results.
        used_calculator: whether the calculator was called in the answer.
    """
    answer = answer.replace("\u2019", "'")
    refused = re.search(r"\b(don't|do not) know\b", answer, re.IGNORECASE) is not None
    if item.check == "number":
        numbers = re.findall(r"\d+", answer)
        known = {item.truth, *re.findall(r"\d+", item.question), *item.allowed}
        return used_calculator and not refused and item.truth in numbers and set(numbers) <= known
    if used_calculator or refused != (item.check == "refusal"):
        return False
    if item.check == "phrase":
        return _holds(answer, item.truth) and not any(_holds(answer, mark) for mark in item.forbidden)
    if item.check == "no pet" and not re.search(r"\b(no|not have a|n't have a) pets?\b", answer, re.IGNORECASE):
        return False
    if item.check == "value" and not _holds(answer, item.truth):
        return False
    return not _other_value(item, answer)


def _other_value(item: Item, answer: str) -> bool:
    """Whether the answer holds a value, a number or a name that it should not."""
    rest = answer
    for name in sorted((item.truth, *item.allowed), key=len, reverse=True):
        rest = _pattern(name).sub(" ", rest) if name else rest
    numbers = set(re.findall(r"\d+", rest)) - set(re.findall(r"\d+", item.question))
    if numbers or any(_holds(rest, value) for value in item.forbidden):
        return True
    full_names = re.findall(r"\b([A-Z][a-z]+) [A-Z][a-z]+\b", rest) if item.names else []
    # A refusal may get the last name of its subject wrong: that is no answer.
    return any(item.check != "refusal" or first not in item.question for first in full_names)


def _holds(text: str, value: str) -> bool:
    return _pattern(value).search(text) is not None


def _pattern(value: str) -> re.Pattern[str]:
    """The value as whole words in any case, with or without its article."""
    return re.compile(rf"(?<!\w){re.escape(value.removeprefix('the '))}(?!\w)", re.IGNORECASE)


def _recall(
    world: World, wordings: Wordings, people: People, places: bool, chats: Chats, count: int, rng: random.Random
) -> tuple[list[Item], list[Item]]:
    """Up to `count` questions for facts in exam wordings, and as many about pets that do not exist."""
    place_facts = world.place_facts() if places else []
    known: list[Item] = []
    no_pet: list[Item] = []
    per_fact = len(wordings.of("birthplace").exam)
    for index in shuffled((len(people) * len(world.attributes) + len(place_facts)) * per_fact, rng):
        which, wording = divmod(index, per_fact)
        which -= len(place_facts)
        if which < 0:
            fact = place_facts[which]
        else:
            person, attribute = divmod(which, len(world.attributes))
            fact = world.person_fact(people[person], world.attributes[attribute])
        templates = wordings.question_templates(fact, exam=True)
        full = len(no_pet if fact.value == NO_PET else known) >= count
        if full or wording >= len(templates):
            continue
        turn = chats.fact_question(fact, templates[wording])
        unseen = templates[wording] in wordings.of(fact.attribute).unseen_key
        if fact.value == NO_PET:
            no_pet.append(replace(_item(world, "no_pet", turn, "no pet"), unseen_key=unseen))
        else:
            known.append(replace(_item(world, "recall_unseen_wordings", turn, "value"), unseen_key=unseen))
        if len(known) >= count and len(no_pet) >= count:
            break
    return known, no_pet


def _two_hop(world: World, turn: Turn) -> Item:
    item = _item(world, "two_hop", turn, "no pet" if turn.truth == NO_PET else "value")
    return replace(item, names=True)


def _item(world: World, kind: str, turn: Turn, check: Check) -> Item:
    """The item of a turn; no other value of the attribute may stand in an answer."""
    forbidden: tuple[str, ...] = ()
    if check in ("value", "no pet", "refusal"):
        attributes = ("pet", "pet_name") if check == "no pet" else (turn.attribute,)
        values = (value for attribute in attributes for value in world.values(attribute))
        forbidden = tuple(value for value in values if value != turn.truth)
    return Item(
        kind,
        turn.sub,
        [user(turn.question)],
        "" if check in ("refusal", "no pet") else turn.truth,
        check,
        forbidden,
        turn.allowed,
        turn.attribute == "friend",
        "".join(part["text"] for part in turn.answer if part["type"] == "text").strip(),
    )


def _draw(count: int, make: Callable[[int], Item]) -> list[Item]:
    """Up to `count` items with different questions."""
    items: dict[str, Item] = {}
    for i in range(20 * count):
        item = make(i)
        items.setdefault(item.question, item)
        if len(items) == count:
            break
    return list(items.values())
