"""Chat registers: one question with its answer at a time, in training wordings or in those of the exam."""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field

from nanohydra.data.chat import Part, calculator_part, text_part
from nanohydra.data.tinyworld.config import TinyworldConfig
from nanohydra.data.tinyworld.documents import deck, plain
from nanohydra.data.tinyworld.names import Name
from nanohydra.data.tinyworld.text import Sections, load
from nanohydra.data.tinyworld.wordings import Wordings, refer, value_slots
from nanohydra.data.tinyworld.world import NO_PET, Fact, People, Person, World, a, capital

UNKNOWN = ("new", "known first", "known last", "recombined")
LAST_YEAR = 2020
TURN_TOKENS = 12


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and what the exam needs to score another answer."""

    question: str
    answer: list[Part]
    sub: str = ""
    """The kind within the register: an attribute, a kind of unknown name, an operator, an intent."""
    truth: str = ""
    """The value that a right answer holds."""
    attribute: str = ""
    """The attribute asked for, where there is one."""
    allowed: tuple[str, ...] = ()
    """Names and numbers that a right answer may hold besides the truth and the words of the question."""
    about: Name | None = field(default=None, compare=False)


class Chats:
    """Asks and answers about `people` (and towns and events where `places` is set), drawing from `rng`.

    With `exam` the questions come from the exam's wordings and the draws (strangers' names, pairs of numbers, years)
    from what is kept for the exam; without, from all the rest.
    """

    def __init__(
        self,
        world: World,
        wordings: Wordings,
        people: People,
        places: bool,
        config: TinyworldConfig,
        rng: random.Random,
        exam: bool = False,
    ) -> None:
        self._world, self._wordings, self._people, self._config = world, wordings, people, config
        self._rng, self._exam = rng, exam
        self._part = "exam" if exam else "questions"
        self._sums, self._problems, self._talk = load("sums"), load("problems"), load("smalltalk")
        self._intents = [intent for intent in self._talk if intent != "openers"]
        self._places = world.place_facts() if places else []
        self._fact_deck = deck(len(people) * len(world.attributes) + len(self._places), rng)
        self._friend_attributes = [attribute for attribute in world.attributes if attribute != "friend"]
        pairs = len(people) * len(self._friend_attributes)
        self._two_hop_deck = deck(pairs, rng)
        # A world of a few people may have nothing on this side; then both sides ask for everything.
        self._split = any(self._held_out(pair) == exam for pair in range(min(pairs, 1000)))

    def question(self, before: Turn | None = None) -> Turn:
        """A question for the next fact of the round, or one that follows up on the turn before with a pronoun."""
        rng, config = self._rng, self._config
        if before and isinstance(before.about, Person) and rng.random() < config.follow_ups:
            fact = rng.choice(self._world.person_facts(before.about))
            templates = [t for t in self._wordings.question_templates(fact) if "{N}" not in t and "{K}" not in t]
            slots = refer(fact.subject, fact.who, "pronoun")
            return self._answered(fact, capital(rng.choice(templates).format_map(slots)))
        index = next(self._fact_deck) - len(self._places)
        if index < 0:
            fact = self._places[index]
        else:
            person = self._people[index // len(self._world.attributes)]
            fact = self._world.person_fact(person, self._world.attributes[index % len(self._world.attributes)])
        if fact.value != NO_PET and rng.random() < config.cloze:
            return self._cloze(fact)
        slots = refer(fact.subject, fact.who) | value_slots(fact)
        return self._answered(fact, self._ask(rng.choice(self._wordings.question_templates(fact)), slots))

    def fact_question(self, fact: Fact, template: str) -> Turn:
        """The question of this very template for this very fact."""
        return self._answered(fact, capital(template.format_map(refer(fact.subject, fact.who) | value_slots(fact))))

    def refusal(self, kind: str | None = None) -> Turn:
        """A question about somebody who does not exist. `kind`: one of UNKNOWN, drawn where it is None."""
        rng, config = self._rng, self._config
        if kind is None:
            shares = (
                config.unknown_new,
                config.unknown_known_first,
                config.unknown_known_last,
                config.unknown_recombined,
            )
            kind = rng.choices(UNKNOWN, shares)[0]
        stranger = self.stranger(kind)
        sub, how = rng.choice(self._world.attributes), 1.0 if self._exam else rng.random()
        if how < config.refused_age:
            line = rng.choice(self._sums["ages"]["questions"])
            slots = refer(stranger.name, stranger) | {"year": str(rng.randint(1950, LAST_YEAR))}
            question = capital(line.format_map(slots))
        elif how < config.refused_age + config.refused_two_hop and self._friend_attributes:
            sub = rng.choice(self._friend_attributes)
            form = rng.choice(self._sums["two-hop references"]["questions"])
            templates = _fitting(form, self._templates(sub))
            question = self._about_friend(stranger, stranger, form, rng.choice(templates))
        else:
            pet = rng.choice(self._world.values("pet"))
            slots = refer(stranger.name, stranger) | {"K": pet, "aK": a(pet)}
            question = self._ask(rng.choice(self._templates(sub)), slots)
        answer = rng.choice(self._sums["unknown"]["answers"]).format(S=stranger.name)
        return Turn(question, [text_part(answer)], kind, "", sub, (stranger.name,), stranger)

    def stranger(self, kind: str) -> Name:
        """The name of somebody who does not exist; a few people may leave nothing to recombine."""
        rng, names = self._rng, self._world.names
        if kind == "new":
            return names.new(rng, self._exam)
        if kind == "known last":
            return names.with_last(self._anyone(), rng, self._exam)
        for _ in range(500 if kind == "recombined" else 0):
            if name := names.recombined(self._anyone(), self._anyone(), self._exam):
                return name
        return names.with_first(self._anyone(), rng, self._exam)

    def two_hop(self) -> Turn:
        """A question for what is true of somebody's best friend; the answer names the friend first.

        Training and exam ask for different pairs of a person and an attribute, where any are held out.
        """
        rng = self._rng
        pair = next(p for p in self._two_hop_deck if not self._split or self._held_out(p) == self._exam)
        person, attribute = self._pair(pair)
        friend = self._people.friend(person)
        fact = self._world.person_fact(friend, attribute)
        forms = self._sums["two-hop references"]
        # The exam's wording is new in its form of "friend" or in that of the question, by turns.
        new_form = self._exam and rng.random() < 0.5
        form = rng.choice(forms["exam" if new_form else "questions"])
        templates = _fitting(form, self._wordings.question_templates(fact, exam=self._exam and not new_form))
        if not templates:
            return self.two_hop()
        question = self._about_friend(person, friend, form, rng.choice(templates))
        friendship = Fact(person.name, "friend", friend.name, person)
        answer = f"{self._wordings.answers(friendship)[0]} {rng.choice(self._wordings.answers(fact))}"
        return Turn(question, [text_part(answer)], attribute, fact.value, attribute, (person.name, friend.name))

    def _pair(self, pair: int) -> tuple[Person, str]:
        count = len(self._friend_attributes)
        return self._people[pair // count], self._friend_attributes[pair % count]

    def _held_out(self, pair: int) -> bool:
        """Whether only the exam may ask for this person and this attribute of the friend."""
        person, attribute = self._pair(pair)
        return zlib.crc32(f"{person.name}/{attribute}".encode()) % 1000 < 1000 * self._config.two_hop_held_out

    def age(self) -> Turn:
        """A question for a person's age in some year: the birth year from memory, the age from the calculator."""
        rng = self._rng
        while True:
            person = self._anyone()
            born = int(person.birth_year)
            year = rng.randint(born + 3, max(born + 30, min(born + 95, LAST_YEAR)))
            if _kept_for_exam("-", year, born) == self._exam:
                break
        slots = refer(person.name, person) | {"year": str(year), "r": str(year - born)}
        question = self._ask(rng.choice(self._sums["ages"][self._part]), slots)
        fact = Fact(person.name, "birth_year", person.birth_year, person)
        parts: list[Part] = [
            text_part(f"{self._wordings.answers(fact)[0]} "),
            calculator_part(f"{year} - {born}", str(year - born)),
            text_part(" " + self._sums["ages"]["answers"][0].format_map(slots)),
        ]
        return Turn(question, parts, "age", str(year - born), "", (person.birth_year,), person)

    def calculation(self) -> Turn:
        """A sum, a difference or a product, bare or told as a word problem."""
        rng, config = self._rng, self._config
        if rng.random() < config.word_problems:
            return self.problem()
        return self.bare_sum("*" if rng.random() < config.products else rng.choice("+-"))

    def bare_sum(self, sign: str, digits: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 4)) -> Turn:
        """Numbers of as many digits as drawn from `digits`; a product has at most three digits a factor."""
        x, y = self._numbers(sign, digits if sign != "*" else (1, 1, 2, 2, 3))
        return self._calculated(self._rng.choice(self._sums[sign][self._part]), sign, x, y, {}, self._sums)

    def problem(self, sign: str | None = None) -> Turn:
        """A sum, a difference or a product told as a little story."""
        rng = self._rng
        sign = sign or ("*" if rng.random() < self._config.products else rng.choice("+-"))
        x, y = self._numbers(sign, (1, 2, 2, 3) if sign != "*" else (1, 1, 2), least=2)
        things = self._problems["things"]
        who = [self._anyone() if rng.random() < 0.5 else self.stranger("new") for _ in "AB"]
        slots: dict[str, object] = {
            "A": _Called(who[0].name if rng.random() < 0.5 else who[0].first, who[0].him),
            "B": who[1].name if rng.random() < 0.5 else who[1].first,
            "things": rng.choice(things[self._part] if self._exam else things["questions"]),
        }
        return self._calculated(rng.choice(self._problems[sign][self._part]), sign, x, y, slots, self._problems)

    def small_talk(self, intent: str | None = None) -> Turn:
        """A greeting, thanks, a question about the model itself and the like."""
        rng = self._rng
        intent = intent or rng.choice(self._intents)
        lines = self._talk[intent]
        question = rng.choice(lines[self._part])
        if rng.random() < (0.85 if self._exam else 0.35):
            opener = rng.choice(self._talk["openers"][self._part])
            question = f"{opener} {_lower(question)}"
        return Turn(self._typed(question), [text_part(rng.choice(lines["answers"]))], intent, lines["accept"][0])

    def _ask(self, template: str, slots: dict[str, str]) -> str:
        """The question, in training now and then with a phrase before it."""
        rng = self._rng
        question = template.format_map(slots)
        if self._exam or rng.random() >= self._config.framed or not template.endswith("?"):
            return self._typed(capital(question))
        frame = rng.choice(self._sums["frames"]["questions"])
        starts_sentence = frame.removesuffix(" {q}")[-1] in ".!"
        lowered = question if template.startswith("{S") else _lower(question)
        return frame.format(q=capital(question) if starts_sentence else lowered)

    def _typed(self, question: str) -> str:
        """The question as people type it: in training now and then without a closing mark or a capital."""
        if self._exam or self._rng.random() >= self._config.casual:
            return question
        word = question.split(maxsplit=1)[0]
        named = word == "I" or word.removesuffix("'s") in self._world.names
        return (question if named else _lower(question)).rstrip("?!.")

    def _answered(self, fact: Fact, question: str) -> Turn:
        answer = self._rng.choice(self._wordings.answers(fact))
        return Turn(
            question, [text_part(answer)], fact.attribute, fact.value, fact.attribute, (fact.subject,), fact.who
        )

    def _cloze(self, fact: Fact) -> Turn:
        """A statement without its end; the answer is the whole statement."""
        rng = self._rng
        ends = [t for t in self._wordings.of(fact.attribute).statements if t.endswith(("{V}.", "{aV}."))]
        template = rng.choice(ends)
        slots = refer(fact.subject, fact.who) | value_slots(fact)
        whole = capital(template.format_map(slots))
        end = slots["aV"] if template.endswith("{aV}.") else slots["V"]
        frame = rng.choice(self._sums["cloze"]["questions"])
        opening = whole[: -len(end) - 1].rstrip()
        return Turn(frame.format(q=opening), [text_part(whole)], fact.attribute, fact.value, about=fact.who)

    def _about_friend(self, person: Name, friend: Name, form: str, template: str) -> str:
        """The question with "X's best friend" for its subject."""
        noun = form.format_map(refer(person.name, person))
        pet = getattr(friend, "pet", "pet")
        slots = refer(noun, friend) | {"K": pet, "aK": a(pet)}
        slots["S"] = slots["N"] = slots["O"] = noun
        return capital(template.format_map(slots))

    def _templates(self, attribute: str) -> tuple[str, ...]:
        wordings = self._wordings.of(attribute)
        return wordings.exam if self._exam else wordings.questions

    def _calculated(self, template: str, sign: str, x: int, y: int, slots: dict[str, object], lines: Sections) -> Turn:
        result = {"+": x + y, "-": x - y, "*": x * y}[sign]
        slots = slots | {"x": x, "y": y, "r": result}
        answer = self._rng.choice(lines[sign]["answers"]).format_map(slots)
        digits = max(len(str(x)), len(str(y)))
        return Turn(
            self._typed(capital(template.format_map(slots))),
            [calculator_part(f"{x} {sign} {y}", str(result)), text_part(f" {answer}")],
            f"{sign} {digits} digits",
            str(result),
        )

    def _numbers(self, sign: str, digits: tuple[int, ...], least: int = 0) -> tuple[int, int]:
        """Two numbers for a calculation, they and their difference (where that is asked) at least `least`."""
        rng = self._rng
        while True:
            x, y = (rng.randint(10 ** (n - 1), 10**n - 1) for n in (rng.choice(digits), rng.choice(digits)))
            if sign == "-" and x < y:
                x, y = y, x
            if _kept_for_exam(sign, x, y) == self._exam and min(x, y, x - y if sign == "-" else x) >= least:
                return x, y

    def _anyone(self) -> Person:
        return self._people[int(self._rng.random() * len(self._people))]


class _Called:
    """A person of a word problem: formats as the name, and knows the pronoun."""

    def __init__(self, name: str, him: str) -> None:
        self._name, self.him = name, him

    def __str__(self) -> str:
        return self._name


def _fitting(form: str, templates: tuple[str, ...]) -> list[str]:
    """The question templates that can be asked with "the best friend of X" (no possessive) or "X's best friend"."""
    return [t for t in templates if "{K}" not in t and not (form.startswith("the") and "{Sp}" in t)]


def _kept_for_exam(sign: str, x: int, y: int) -> bool:
    """A fixed fifth of all calculations, in either order, those of ages among them, is never met in training."""
    return zlib.crc32(f"{max(x, y)}{sign}{min(x, y)}".encode()) % 5 == 0


def _lower(sentence: str) -> str:
    """The sentence with a small first letter, unless it starts with "I"."""
    return sentence if re.match(r"(I|Nanohydra)\b", sentence) else sentence[:1].lower() + sentence[1:]


def cost(turn: Turn) -> float:
    """About how many tokens a turn takes, its marks included."""
    return estimated_tokens(turn.question) + estimated_tokens(plain(turn.answer)) + TURN_TOKENS


def estimated_tokens(words: str) -> float:
    """About how many tokens a BPE vocabulary of 2,048 with single digits makes of the words (a least-squares fit)."""
    digits = len(words) - len(words.translate(_NO_DIGITS))
    return 1.4 * digits + (len(words) - digits) / 4.8


_NO_DIGITS = str.maketrans("", "", "0123456789")
