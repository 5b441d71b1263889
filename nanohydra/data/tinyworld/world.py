"""The world itself: people, towns and events, each fact of them fixed by the seed, made when asked for.

Use:
    world = World(seed=0, people=100)
    world.people[3].birthplace
    for fact in world.facts(): ...           # (subject, attribute, value)
    world.session(0, people=20)              # later, new people, with friends among themselves
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product

from nanohydra.data.tinyworld.config import PERSON_ATTRIBUTES, check_attributes
from nanohydra.data.tinyworld.names import Name, Names
from nanohydra.data.tinyworld.text import load

NO_PET = "none"
YEARS = range(1930, 1990)
EVENT_YEARS = range(1960, 2020)
MAX_TOWNS, EVENTS = 200, 12


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def capital(text: str) -> str:
    """The text with a capital first letter, the rest unchanged."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class Person(Name):
    """Somebody of the world with all attributes. `mutual`: the best friend's best friend is this person."""

    index: int
    mutual: bool
    birthplace: str
    birth_year: str
    home: str
    trade: str
    employer: str
    pet: str
    pet_name: str
    friend: str
    food: str
    instrument: str

    @property
    def a_trade(self) -> str:
        return a(self.trade)

    @property
    def A_trade(self) -> str:
        return capital(a(self.trade))

    @property
    def a_pet(self) -> str:
        return a(self.pet)

    @property
    def Pets(self) -> str:
        return capital(self.pet) + "s"

    @property
    def Employer(self) -> str:
        return capital(self.employer)


@dataclass(frozen=True, slots=True)
class Town:
    """A town; `river` comes with its article."""

    name: str
    river: str
    product: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened once; `name` comes with its article, `date` is like "14 June 1978"."""

    name: str
    town: str
    date: str
    river: str
    product: str

    @property
    def Name(self) -> str:
        return capital(self.name)


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of the truth table.

    `who` is the person of the fact (None for towns and events), whose pronouns the wordings use. `pet` and `pet_name`
    of a person without a pet have the value NO_PET.
    """

    subject: str
    attribute: str
    value: str
    who: Person | None = None


class People(Sequence[Person]):
    """A cohort of people, made when asked for; best friends are of the same cohort."""

    def __init__(self, world: World, cohort: str, count: int, name: Callable[[int], Name]) -> None:
        self._world, self._count, self._name = world, count, name
        self._seed = f"tinyworld/{world.seed}/{cohort}"
        self._made: dict[int, Person] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Person:  # type: ignore[override]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        if index not in self._made:
            self._made[index] = self._make(index)
        return self._made[index]

    def _make(self, index: int) -> Person:
        rng = random.Random(f"{self._seed}/{index}")
        drawn: dict[str, str] = {}
        for attribute in PERSON_ATTRIBUTES:
            if values := self._world.values(attribute):
                drawn[attribute] = values[int(rng.random() * len(values))]
        if rng.random() >= self._world.pets:
            drawn["pet"] = drawn["pet_name"] = NO_PET
        name, friend = self._name(index), self.friend_index(index)
        drawn["friend"] = self._name(friend).name
        mutual = self.friend_index(friend) == index
        return Person(name.first, name.last, name.female, index, mutual, **drawn)

    def friend(self, person: Person) -> Person:
        """The best friend of one of these people."""
        return self[self.friend_index(person.index)]

    def friend_index(self, index: int) -> int:
        """Best friends are neighbours in a shuffled row; one left over has the first of the row for a friend."""
        other = self._place[index] ^ 1
        return self._row[other if other < self._count else 0]

    @cached_property
    def _row(self) -> list[int]:
        row = list(range(self._count))
        random.Random(f"{self._seed}/friends").shuffle(row)
        return row

    @cached_property
    def _place(self) -> list[int]:
        place = [0] * self._count
        for i, person in enumerate(self._row):
            place[person] = i
        return place


class World:
    """A small world of `people` people, some towns and events. Raises UserError for bad sizes or attributes."""

    def __init__(
        self, seed: int, people: int = 100, attributes: Sequence[str] = PERSON_ATTRIBUTES[:7], pets: float = 0.8
    ) -> None:
        """Args: attributes: what facts() tells of people; pets: share of people who have a pet."""
        check_attributes(attributes)
        self.seed, self.attributes, self.pets = seed, tuple(attributes), pets
        self.names = Names(seed, people)
        rng = random.Random(f"tinyworld/{seed}/world")
        rivers, products = list(_values("river")), list(_values("product"))
        rng.shuffle(rivers)
        rng.shuffle(products)
        town_names = [left + right for left, right in product(_values("town left"), _values("town right"))]
        n_towns = max(8, min(MAX_TOWNS, round(2 * people**0.5)))
        self.towns = [
            Town(name, rivers[i % len(rivers)], products[i % len(products)])
            for i, name in enumerate(rng.sample(town_names, n_towns))
        ]
        employers = [
            f"the {left} {right}" for left, right in product(_values("employer left"), _values("employer right"))
        ]
        self._values = {
            "birthplace": [town.name for town in self.towns],
            "home": [town.name for town in self.towns],
            "birth_year": [str(year) for year in YEARS],
            "trade": rng.sample(_values("trade"), max(12, min(len(_values("trade")), people // 4))),
            "employer": rng.sample(employers, max(8, min(300, people // 5))),
            "pet": list(_values("pet")),
            "pet_name": rng.sample(_values("pet_name"), max(20, min(len(_values("pet_name")), people // 2))),
            "food": list(_values("food")),
            "instrument": list(_values("instrument")),
        }
        self.events = [self._event(name, rng) for name in rng.sample(_values("event"), EVENTS)]
        self._values["river"] = sorted({town.river for town in self.towns})
        self._values["product"] = sorted({town.product for town in self.towns})
        self._values["event_town"] = [town.name for town in self.towns]
        self._values["event_date"] = [event.date for event in self.events]
        self.people = People(self, "people", people, self.names.person)

    def session(self, session: int, people: int = 20) -> People:
        """The people of later session `session`, new to the world and to every other session, of the same towns."""
        self.names.session(session, people - 1)  # refuses what is out of range
        return People(self, f"session/{session}", people, partial(self.names.session, session))

    def values(self, attribute: str) -> Sequence[str]:
        """All that an attribute can be in this world; for `friend` the domain is everybody, which is not listed."""
        return self._values.get(attribute, ())

    def facts(self, people: Sequence[Person] | None = None) -> Iterator[Fact]:
        """The facts of the given people; by default everybody's, and those of towns and events."""
        for person in self.people if people is None else people:
            yield from self.person_facts(person)
        if people is None:
            yield from self.place_facts()

    def person_facts(self, person: Person) -> list[Fact]:
        """The facts of one person, one an attribute of this world."""
        return [self.person_fact(person, attribute) for attribute in self.attributes]

    def person_fact(self, person: Person, attribute: str) -> Fact:
        """The fact of one attribute of a person."""
        return Fact(person.name, attribute, getattr(person, attribute), person)

    def place_facts(self) -> list[Fact]:
        """The facts of towns and events."""
        facts = []
        for town in self.towns:
            facts += [Fact(town.name, "river", town.river), Fact(town.name, "product", town.product)]
        for event in self.events:
            facts += [Fact(event.name, "event_town", event.town), Fact(event.name, "event_date", event.date)]
        return facts

    def truth_table(self, people: Sequence[Person] | None = None) -> list[dict[str, str]]:
        """All facts as rows of subject, attribute and value."""
        return [{"subject": f.subject, "attribute": f.attribute, "value": f.value} for f in self.facts(people)]

    def _event(self, name: str, rng: random.Random) -> Event:
        town = rng.choice(self.towns)
        date = f"{rng.randint(1, 28)} {rng.choice(_values('month'))} {rng.choice(EVENT_YEARS)}"
        return Event(name, town.name, date, town.river, town.product)


def _values(section: str) -> tuple[str, ...]:
    return load("values")[section]["values"]
