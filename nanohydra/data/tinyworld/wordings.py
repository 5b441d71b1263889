"""Facts in words: statements, questions for training, other questions for the exam, and answers.

Which of the author's wordings a world uses, and in what order, depends on its seed. Training and exam wordings come
from two lists by two authors, and the exam's author never saw the training's list.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from nanohydra.data.tinyworld.names import Name
from nanohydra.data.tinyworld.text import Sections, load
from nanohydra.data.tinyworld.world import NO_PET, Fact, a, capital

Slots = dict[str, str]


def refer(name: str, who: Name | None, how: str = "name") -> Slots:
    """The slots that stand for a subject: {S} as subject, {Sp} possessive, {O} as object, {N} always a noun.

    Args: how: "name" (in full), "first" (the first name) or "pronoun".
    """
    he, him, his = (who.he, who.him, who.his) if who else ("it", "it", "its")
    noun = who.first if who and how == "first" else name
    slots = {"S": noun, "Sp": f"{noun}'s", "O": noun, "N": noun, "he": he, "him": him, "his": his}
    if how == "pronoun":
        slots.update(S=he, Sp=his, O=him)
    return slots


def value_slots(fact: Fact) -> Slots:
    """The slots that stand for the value, with its article where it takes one, and for the pet's kind."""
    slots = {"V": fact.value, "aV": a(fact.value)}
    if fact.attribute == "pet_name" and fact.who:
        slots.update(K=fact.who.pet, aK=a(fact.who.pet))
    return slots


@dataclass(frozen=True)
class AttributeWordings:
    """The wordings of one attribute in this world's order, as templates."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    exam: tuple[str, ...]
    """Exam wordings; none is a training wording."""
    unseen_key: frozenset[str]
    """Those exam wordings that share no key word with the training questions."""
    answers: tuple[str, ...]
    none_statements: tuple[str, ...] = ()
    none_answers: tuple[str, ...] = ()


ANYWHERE = frozenset(
    """a all an and any as at best by can could d did do does for from get give got had has have he her him his how i
    idea in is it kind know like me most name of on or other own people person place please say should so sort tell than
    that the there these this those to town type was were what when where which who whom whose will with wonder would
    you""".split()  # noqa: SIM905 - so many literals would read worse
)
"""Words that stand in questions for anything."""


def key_words(template: str) -> set[str]:
    """The stems of a question's own words: those that tell what it asks for."""
    words = re.findall(r"[a-z]+", re.sub(r"{\w+}|'s", " ", template.lower()))
    return {re.sub(r"(?<=\w{3})(ing|ed|es|s|e)$", "", word) for word in words if word not in ANYWHERE}


class Wordings:
    """The wordings drawn for one world."""

    def __init__(self, seed: int, questions_wanted: int = 36, exam_wanted: int = 6) -> None:
        """Args: how many wordings an attribute gets in training and in the exam, where there are as many."""
        self._attributes: dict[str, AttributeWordings] = {}
        sections: Sections = {**load("people"), **load("places")}
        for attribute, parts in sections.items():
            rng = random.Random(f"tinyworld/{seed}/wordings/{attribute}")
            pool = {part: rng.sample(lines, len(lines)) for part, lines in parts.items()}
            questions, asked = _draw(pool["questions"], questions_wanted), _draw(pool["exam"], exam_wanted)
            trained = {word for line in questions for word in key_words(line)}
            self._attributes[attribute] = AttributeWordings(
                statements=tuple(pool["statements"]),
                questions=tuple(questions),
                exam=tuple(asked),
                unseen_key=frozenset(line for line in asked if not key_words(line) & trained),
                answers=parts["answers"],
                none_statements=parts.get("none statements", ()),
                none_answers=parts.get("none answers", ()),
            )

    def of(self, attribute: str) -> AttributeWordings:
        """The templates of an attribute."""
        return self._attributes[attribute]

    def statement_templates(self, fact: Fact) -> tuple[str, ...]:
        """What can be said of the fact; of a person without a pet, that there is none."""
        wordings = self._attributes[fact.attribute]
        if fact.value != NO_PET:
            return wordings.statements
        return self._attributes["pet"].none_statements

    def statements(self, fact: Fact, how: str = "name") -> list[str]:
        """All statements of the fact as sentences; `how` as in refer()."""
        slots = refer(fact.subject, fact.who, how) | value_slots(fact)
        return [capital(template.format_map(slots)) for template in self.statement_templates(fact)]

    def statement(self, fact: Fact, rng: random.Random, how: str = "name") -> str:
        """One statement of the fact, drawn."""
        template = rng.choice(self.statement_templates(fact))
        return capital(template.format_map(refer(fact.subject, fact.who, how) | value_slots(fact)))

    def question_templates(self, fact: Fact, exam: bool = False) -> tuple[str, ...]:
        """The question templates that fit the fact: those with {K}, the pet's kind, need a pet."""
        wordings = self._attributes[fact.attribute]
        templates = wordings.exam if exam else wordings.questions
        return templates if fact.value != NO_PET else tuple(t for t in templates if "{K}" not in t)

    def questions(self, fact: Fact) -> list[str]:
        """The questions that training asks for the fact."""
        slots = refer(fact.subject, fact.who) | value_slots(fact)
        return [capital(template.format_map(slots)) for template in self.question_templates(fact)]

    def exam_questions(self, fact: Fact) -> list[str]:
        """The questions that the exam asks for the fact; none of them is in questions()."""
        slots = refer(fact.subject, fact.who) | value_slots(fact)
        return [capital(template.format_map(slots)) for template in self.question_templates(fact, exam=True)]

    def answers(self, fact: Fact) -> list[str]:
        """The true answers to the fact's questions."""
        wordings = self._attributes[fact.attribute]
        slots = refer(fact.subject, fact.who) | value_slots(fact)
        templates = wordings.answers if fact.value != NO_PET else wordings.none_answers
        return [capital(template.format_map(slots)) for template in templates]


def _draw(lines: list[str], count: int) -> list[str]:
    """The first `count` lines; of pet names, at least half of them must fit any pet and people without one."""
    general = [line for line in lines if "{K}" not in line]
    special = [line for line in lines if "{K}" in line]
    kept = set(general[: max(count - len(special), (count + 1) // 2)])
    kept |= set(special[: count - len(kept)])
    return [line for line in lines if line in kept]
