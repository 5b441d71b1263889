"""The knobs of tinyworld."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from nanohydra.errors import UserError, did_you_mean

PERSON_ATTRIBUTES = (
    "birthplace",
    "birth_year",
    "trade",
    "employer",
    "pet",
    "pet_name",
    "friend",
    "home",
    "food",
    "instrument",
)
"""All that a person can have; a world uses a choice of them."""


def check_attributes(attributes: Sequence[str]) -> None:
    """Raises UserError unless the attributes are some of PERSON_ATTRIBUTES."""
    if not attributes:
        raise UserError(f"People need at least one attribute, such as {PERSON_ATTRIBUTES[0]}.")
    for attribute in attributes:
        if attribute not in PERSON_ATTRIBUTES:
            raise UserError(f'People have no attribute "{attribute}".{did_you_mean(attribute, PERSON_ATTRIBUTES)}')


@dataclass(frozen=True)
class TinyworldConfig:
    """What the world holds and how its text is mixed. Shares are of characters and are normalised to their sum."""

    people: int = 100
    """How many people live in the world, 2 to 100,000."""
    attributes: tuple[str, ...] = PERSON_ATTRIBUTES[:7]
    """Which attributes of people the text tells and the exam asks; any of PERSON_ATTRIBUTES."""
    biographies: float = 0.17
    """Share of plain texts that tell one person's, town's or event's facts."""
    stories: float = 0.03
    """Share of short stories with a plot and named people and places."""
    dialogues: float = 0.02
    """Share of plain-text conversations between two people of the world."""
    letters: float = 0.02
    """Share of letters."""
    questions: float = 0.31
    """Share of question and answer chats over single facts, cloze prompts included."""
    refusals: float = 0.13
    """Share of questions about people who do not exist, answered with "I don't know ..."."""
    calculations: float = 0.18
    """Share of sums and word problems, answered by a calculator call."""
    two_hop: float = 0.08
    """Share of questions about a person's friend; the answer names the friend first."""
    ages: float = 0.05
    """Share of questions for somebody's age, answered from the birth year by a calculator call."""
    small_talk: float = 0.11
    """Share of greetings, thanks, questions about the model itself and the like."""
    question_wordings: int = 36
    """How many of the author's question wordings an attribute gets in training, where there are as many."""
    cloze: float = 0.12
    """Share of the questions that are sentences to complete."""
    framed: float = 0.08
    """Share of the questions with a phrase before them, such as "Tell me, ..."."""
    casual: float = 0.06
    """Share of the questions without the closing mark, and without a capital unless they begin with a name."""
    follow_ups: float = 0.04
    """Share of the questions after the first of a chat that say "he" or "she" for the person just asked about."""
    mixed_chats: float = 0.15
    """Share of the turns after the first of a chat that change the subject altogether."""
    max_turns: int = 4
    """A chat has one to this many questions."""
    unknown_new: float = 0.3
    """Share of the refusals about names of which neither part belongs to anyone."""
    unknown_known_first: float = 0.2
    """Share of the refusals about a known first name with a last name that nobody has."""
    unknown_known_last: float = 0.1
    """Share of the refusals about a known last name with a first name that nobody has."""
    unknown_recombined: float = 0.4
    """Share of the refusals about the first name of one known person with the last name of another."""
    refused_two_hop: float = 0.1
    """Share of the refusals that ask about an unknown person's friend."""
    refused_age: float = 0.08
    """Share of the refusals that ask for an unknown person's age."""
    word_problems: float = 0.2
    """Share of the calculations told as a little story."""
    products: float = 0.1
    """Share of the calculations that multiply; the rest are sums and differences in equal parts."""
    two_hop_held_out: float = 0.25
    """Share of the (person, attribute of the friend) pairs that only the exam asks; 0: training and exam ask all."""

    def __post_init__(self) -> None:
        check_attributes(self.attributes)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not 0 <= value <= 1:
                raise UserError(f"tinyworld's {field.name} is a share: give a number from 0 to 1, not {value}.")
        if self.max_turns < 1 or not 8 <= self.question_wordings <= 40:
            raise UserError("tinyworld needs max_turns >= 1 and question_wordings from 8 to 40.")


@dataclass(frozen=True)
class ExamConfig:
    """How many items of each kind the exam asks."""

    items: int = 400
    """Items of each kind, fewer where the world has not as many."""
    wordings: int = 6
    """How many of the author's exam wordings an attribute gets, 4 to 14, where there are as many."""

    def __post_init__(self) -> None:
        if self.items < 1 or not 4 <= self.wordings <= 14:
            raise UserError("The exam needs items >= 1 and wordings from 4 to 14.")
