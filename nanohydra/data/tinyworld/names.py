"""Names without collisions, made of syllables and short words, at any size and without a list of who exists.

Every use has its own slice of the shuffled first and last names: the world, later sessions, and the strangers of the
training text and of the exam. So a stranger of the exam shares no part of a name with any stranger met in training,
save where the exam wants known parts.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from itertools import product

from nanohydra.data.tinyworld.text import load
from nanohydra.errors import UserError

MAX_PEOPLE = 100_000
SESSIONS = 100
SESSION_PEOPLE = 500
# How many first and last names each use may have (the shuffled lists are cut in this order).
WORLD, TRAINING, EXAM, LATER = (900, 1500), (700, 850), (220, 250), (400, 450)


@dataclass(frozen=True, slots=True)
class Name:
    """A first and a last name, and the pronouns that go with it."""

    first: str
    last: str
    female: bool

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    @property
    def he(self) -> str:
        return "she" if self.female else "he"

    @property
    def him(self) -> str:
        return "her" if self.female else "him"

    @property
    def his(self) -> str:
        return "her" if self.female else "his"

    @property
    def He(self) -> str:
        return "She" if self.female else "He"

    @property
    def His(self) -> str:
        return "Her" if self.female else "His"


class Names:
    """The names of one world of `people` people, by index, and the strangers around it.

    Raises UserError for a size out of range.
    """

    def __init__(self, seed: int, people: int) -> None:
        if not 2 <= people <= MAX_PEOPLE:
            raise UserError(f"A tinyworld has 2 to {MAX_PEOPLE:,} people, not {people:,}. Choose a size in that range.")
        rng = random.Random(f"tinyworld/{seed}/names")
        starts, female, male = _syllables("first start"), _syllables("female end"), _syllables("male end")
        firsts = [(start + end, end in female) for start, end in product(starts, female + male)]
        pairs = product(_syllables("last left"), _syllables("last right"))
        taken = {first for first, _ in firsts}
        lasts = [left + right for left, right in pairs if left.lower() != right and left + right not in taken]
        rng.shuffle(firsts)
        rng.shuffle(lasts)
        self.people = people
        self._firsts: list[list[tuple[str, bool]]] = []
        self._lasts: list[list[str]] = []
        f = n = 0
        for width_first, width_last in (WORLD, TRAINING, EXAM, LATER):
            self._firsts.append(firsts[f : f + width_first])
            self._lasts.append(lasts[n : n + width_last])
            f, n = f + width_first, n + width_last
        # Few enough first and last names that namesakes occur, as they do among real people.
        self._firsts[0] = self._firsts[0][: max(3, round(0.7 * people))]
        self._lasts[0] = self._lasts[0][: max(4, round(0.9 * people))]
        self._first_at = [{first: i for i, (first, _) in enumerate(pool)} for pool in self._firsts]
        self._last_at = [{last: i for i, last in enumerate(pool)} for pool in self._lasts]

    def __contains__(self, part: str) -> bool:
        """Whether this is a first name, anybody's or nobody's."""
        return any(part in pool for pool in self._first_at)

    def person(self, index: int) -> Name:
        """The name of person `index` of the world: a bijection of indices and pairs, so no two are alike."""
        return self._pair(0, index)

    def session(self, session: int, index: int) -> Name:
        """The name of person `index` of a later session; new to the world and to every other session."""
        if not (0 <= session < SESSIONS and 0 <= index < SESSION_PEOPLE):
            raise UserError(f"There are {SESSIONS} sessions of up to {SESSION_PEOPLE} people. Choose smaller numbers.")
        return self._pair(3, session * SESSION_PEOPLE + index)

    def known(self, first: str, last: str) -> bool:
        """Whether the world has a person of this name."""
        index = self._index(0, first, last)
        return index is not None and index < self.people

    def new(self, rng: random.Random, exam: bool) -> Name:
        """A stranger: neither part of the name belongs to anyone."""
        pool = 2 if exam else 1
        first, female = rng.choice(self._firsts[pool])
        return Name(first, rng.choice(self._lasts[pool]), female)

    def with_first(self, known: Name, rng: random.Random, exam: bool) -> Name:
        """A stranger with the first name of `known`."""
        return Name(known.first, rng.choice(self._lasts[2 if exam else 1]), known.female)

    def with_last(self, known: Name, rng: random.Random, exam: bool) -> Name:
        """A stranger with the last name of `known`."""
        first, female = rng.choice(self._firsts[2 if exam else 1])
        return Name(first, known.last, female)

    def recombined(self, one: Name, other: Name, exam: bool) -> Name | None:
        """A stranger with the first name of one and the last name of another.

        Returns None where that name is taken (or could be, in a session), or is kept for the other side: a quarter of
        all such names is kept for the exam.
        """
        later = self._index(3, one.first, other.last)
        taken = self.known(one.first, other.last) or (later is not None and later < SESSIONS * SESSION_PEOPLE)
        kept_for_exam = zlib.crc32(f"{one.first} {other.last}".encode()) % 4 == 0
        return None if taken or kept_for_exam != exam else Name(one.first, other.last, one.female)

    def _pair(self, pool: int, index: int) -> Name:
        firsts, lasts = self._firsts[pool], self._lasts[pool]
        a = index % len(firsts)
        first, female = firsts[a]
        return Name(first, lasts[(index // len(firsts) + a) % len(lasts)], female)

    def _index(self, pool: int, first: str, last: str) -> int | None:
        """The inverse of `_pair`; None where the pool lacks a part."""
        a, b = self._first_at[pool].get(first), self._last_at[pool].get(last)
        if a is None or b is None:
            return None
        return (b - a) % len(self._lasts[pool]) * len(self._firsts[pool]) + a


def _syllables(section: str) -> list[str]:
    return " ".join(load("names")[section]["values"]).split()
