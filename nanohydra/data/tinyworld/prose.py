"""Plain-text registers: biographies and notes, stories with a plot, dialogues, letters. All they state is true."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from nanohydra.data.tinyworld.config import PERSON_ATTRIBUTES
from nanohydra.data.tinyworld.documents import deck
from nanohydra.data.tinyworld.text import load
from nanohydra.data.tinyworld.wordings import Wordings, refer, value_slots
from nanohydra.data.tinyworld.world import NO_PET, Fact, People, Person, World, capital


@dataclass(frozen=True)
class Script:
    """A text in beats, each with alternatives.

    `needs`: "A", "B", "C" for people, "A.pet" where A must have a pet, "E" for an event.
    """

    beats: tuple[tuple[str, ...], ...]
    needs: frozenset[str]


class Prose:
    """Writes texts about `people` (and about towns and events where `places` is set), drawing from `rng`."""

    def __init__(self, world: World, wordings: Wordings, people: People, places: bool, rng: random.Random) -> None:
        self._world, self._wordings, self._people, self._rng = world, wordings, people, rng
        self._lists = load("values")
        self._biographies = load("biographies")
        self._pairs = {tuple(part.split()): lines for part, lines in self._biographies["pairs"].items()}
        self._subjects: list[list[Fact]] = []
        if places:
            facts = world.place_facts()
            self._subjects = [facts[i : i + 2] for i in range(0, len(facts), 2)]
        self._subject_deck = deck(len(people) + len(self._subjects), rng)
        self._person_deck = deck(len(people), rng)
        self._scripts = {kind: _scripts(kind, world.attributes) for kind in ("stories", "dialogues", "letters")}

    def biography(self) -> str:
        """The facts of the next person, town or event of the round."""
        index = next(self._subject_deck)
        if index >= len(self._people):
            return self._note(self._subjects[index - len(self._people)])
        person = self._people[index]
        return self._card(person) if self._rng.random() < 0.12 else self._life(person)

    def story(self) -> str:
        """A short story about the next person of the round for whom there is one."""
        return " ".join(self._script("stories"))

    def dialogue(self) -> str:
        """A conversation, one line a speaker."""
        return "\n".join(self._script("dialogues"))

    def letter(self) -> str:
        """A letter: greeting, body, closing."""
        greeting, *body, closing = self._script("letters")
        return f"{greeting}\n{' '.join(body)}\n{closing}"

    def _life(self, person: Person) -> str:
        rng = self._rng
        facts = {fact.attribute: fact for fact in self._world.person_facts(person)}
        if person.pet == NO_PET:
            facts.pop("pet_name", None)
        order = rng.sample(sorted(facts), len(facts))
        if rng.random() < 0.6:  # most lives are told from their beginning
            order.sort(key=lambda attribute: attribute not in ("birthplace", "birth_year"))
        sentences = [self._about(person, "openings")] if rng.random() < 0.25 else []
        told: set[str] = set()
        for attribute in order:
            if attribute in told:
                continue
            how = "name" if not told else rng.choices(("name", "first", "pronoun"), (4, 2, 5))[0]
            slots = refer(person.name, person, how)
            pair = self._pair(attribute, facts, told) if rng.random() < 0.45 else None
            if pair:
                told.update(pair)
                line = rng.choice(self._pairs[pair])
                values = {name: facts[name].value for name in pair}
                values |= {"a_trade": person.a_trade, "a_pet": person.a_pet}
                sentences.append(capital(line.format_map(values | slots)))
            else:
                told.add(attribute)
                sentences.append(self._sentence(facts[attribute], slots))
        if rng.random() < 0.25:
            sentences.append(self._about(person, "closings"))
        return " ".join(sentences)

    def _pair(self, attribute: str, facts: dict[str, Fact], told: set[str]) -> tuple[str, ...] | None:
        """Attributes, one of them `attribute`, that a sentence tells together and nobody has told yet."""
        fitting = [
            pair
            for pair in self._pairs
            if attribute in pair and all(p in facts and p not in told and facts[p].value != NO_PET for p in pair)
        ]
        return self._rng.choices(fitting, [len(self._pairs[pair]) for pair in fitting])[0] if fitting else None

    def _sentence(self, fact: Fact, slots: dict[str, str]) -> str:
        rng = self._rng
        template = rng.choice(self._wordings.statement_templates(fact))
        sentence = template.format_map(slots | value_slots(fact))
        if template.startswith("{S") and rng.random() < 0.15:
            leads = self._biographies["leads"]
            return f"{rng.choice(leads.get(fact.attribute, ()) + leads['any'])} {sentence}"
        return capital(sentence)

    def _about(self, person: Person, part: str) -> str:
        how = "name" if part == "openings" else self._rng.choice(("first", "pronoun"))
        return capital(self._rng.choice(self._biographies[part]["any"]).format_map(refer(person.name, person, how)))

    def _card(self, person: Person) -> str:
        """The facts as a list with labels."""
        facts = [
            fact for fact in self._world.person_facts(person) if person.pet != NO_PET or fact.attribute != "pet_name"
        ]
        self._rng.shuffle(facts)
        labels = self._biographies["labels"]
        return "\n".join(
            [person.name] + [f"{self._rng.choice(labels[fact.attribute])}: {fact.value}" for fact in facts]
        )

    def _note(self, facts: list[Fact]) -> str:
        """Two statements of each fact of a town or an event."""
        rng = self._rng
        opening = self._biographies["event openings" if facts[0].attribute.startswith("event") else "town openings"]
        sentences = []
        if rng.random() < 0.3:
            sentences.append(rng.choice(opening["any"]).format_map(refer(facts[0].subject, None)))
        for fact in rng.sample(facts, len(facts)) + rng.sample(facts, rng.randint(0, len(facts))):
            sentences.append(self._wordings.statement(fact, rng))
        return " ".join(sentences)

    def _script(self, kind: str) -> list[str]:
        """The beats of a script that fits the next person of the round, filled in; of a life where none fits."""
        rng, people = self._rng, self._people
        for _ in range(100):
            person = people[next(self._person_deck)]
            friend = people.friend(person)
            strangers = (people[int(rng.random() * len(people))] for _ in range(8))
            stranger = next((p for p in strangers if p.first not in (person.first, friend.first)), None)
            lacking = {"A.pet"} if person.pet == NO_PET else set()
            if not person.mutual or person.first == friend.first:
                lacking.add("B")
            if stranger is None:
                lacking.add("C")
            # Nobody remembers what happened before they were eight.
            grown = 8 + max(int(p.birth_year) for p in (person, friend, stranger) if p)
            events = [event for event in self._world.events if int(event.date[-4:]) >= grown]
            if not events:
                lacking.add("E")
            scripts = [script for script in self._scripts[kind] if not script.needs & lacking]
            if scripts:
                break
        else:
            return [f"About {person.name}:", self._life(person), "The end."]
        slots: dict[str, object] = {"A": _Role(person), "B": _Role(friend), "C": stranger and _Role(stranger)}
        # Nobody is a stranger in the town of their birth.
        native = {p.birthplace for p in (person, friend, stranger) if p}
        slots["T"] = rng.choice([town for town in self._world.towns if town.name not in native])
        slots["E"] = rng.choice(events) if events else None
        for name in ("season", "day"):
            slots[name] = rng.choice(self._lists[name]["values"])
        beats = []
        for beat in rng.choice(scripts).beats:
            slots["n"] = rng.choice(self._lists["number"]["values"])
            beats.append(capital(rng.choice(beat).format_map(slots)))
        return beats


class _Role:
    """A person in a script, called by the full name the first time."""

    def __init__(self, person: Person) -> None:
        self._person, self._named = person, False

    def __getattr__(self, slot: str) -> str:
        if slot == "first" and self._named:
            return self._person.first
        self._named = self._named or slot in ("first", "name")
        return self._person.name if slot == "first" else str(getattr(self._person, slot))


def _scripts(kind: str, attributes: tuple[str, ...]) -> list[Script]:
    """The author's scripts that tell of no other attributes than these."""
    scripts = []
    for beats in load(kind).values():
        used = set(re.findall(r"{([ABCE])\.(\w+)}", " ".join(line for beat in beats.values() for line in beat)))
        told = {(who, slot.removeprefix("a_").removeprefix("A_").lower().removesuffix("s")) for who, slot in used}
        if {slot for _, slot in told} & set(PERSON_ATTRIBUTES) <= set(attributes) | {"friend"}:
            needs = {who for who, _ in told} | ({"A.pet"} if ("A", "pet") in told else set())
            scripts.append(Script(tuple(beats.values()), frozenset(needs)))
    return scripts
