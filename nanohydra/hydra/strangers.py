"""Those who were never taught: names near to the taught ones, and wholly unseen ones, asked about the same things.

Training learns from one half of them to say "I don't know"; the exam counts on the other half how often a taught value is
put on a stranger. A stranger's name parts decide by a checksum to which half it belongs, so no name is in both.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from nanohydra.hydra.facts import PRONOUNS, is_person, slots, wordings_for
from nanohydra.hydra.grammar import names_in, sentence, turned
from nanohydra.hydra.material import Fact, plain
from nanohydra.hydra.relations import bind
from nanohydra.hydra.text import load

if TYPE_CHECKING:
    from nanohydra.data.chat import Message

KINDS = ("first", "last", "letter", "swapped", "unseen")
_VOWELS, _CONSONANTS = "aeiou", "bcdfghklmnprstvw"


@dataclass(frozen=True)
class Stranger:
    """Somebody or something that was never taught, with a question about it."""

    name: str
    question: str
    kind: str
    """How near: shares the "first" or "last" name, one "letter" off, parts "swapped" among the taught, or "unseen"."""
    near: str
    """The taught subject whose attribute is asked for."""
    attribute: str


def near_misses(
    facts: Sequence[Fact], count: int, seed: int, forbidden: Collection[str] = (), exam: bool = False
) -> list[Stranger]:
    """Up to `count` strangers around the subjects of `facts`, each kind in turn; with `exam` the exam's half and wordings.

    forbidden: names that must not be among them (those of earlier lessons). Empty where no fact has a subject.
    """
    rng = random.Random(f"hydra/{seed}/strangers/{exam}")
    about = [fact for fact in facts if fact.subject and (fact.attribute or fact.subject in fact.question)]
    subjects = list(dict.fromkeys(fact.subject for fact in about))
    taken = {plain(name) for name in (*forbidden, *(f.subject for f in facts), *(f.value for f in facts))}
    found: list[Stranger] = []
    names: set[str] = set()
    for attempt in range(count * 20):
        if len(found) == count or not about:
            break
        fact = about[attempt % len(about)] if attempt % len(about) else _shuffled(about, rng)[0]
        kind = KINDS[len(found) % len(KINDS)] if attempt < count * 10 else "unseen"
        kind, name = _name(fact.subject, kind, subjects, rng, exam)
        if name is None or plain(name) in taken or plain(name) in names:
            continue
        question = _question(fact, name, rng, exam)
        names.add(plain(name))
        found.append(Stranger(name, question, kind, fact.subject, fact.attribute))
    return found


def refusals(strangers: Sequence[Stranger], seed: int) -> list[list[Message]]:
    """A chat for each stranger in which the answer is not known, in several wordings."""
    rng = random.Random(f"hydra/{seed}/refusals")
    lines = load("wraps")["refusals"][""]
    of_things = [line for line in lines if "anyone" not in line]
    chats: list[list[Message]] = []
    for stranger in strangers:
        line = rng.choice(lines if is_person(stranger.name) else of_things)
        answer = line.format(N=turned(stranger.name))
        chats.append([{"role": "user", "content": stranger.question}, {"role": "assistant", "content": answer}])
    return chats


def _shuffled(facts: list[Fact], rng: random.Random) -> list[Fact]:
    rng.shuffle(facts)
    return facts


def _question(fact: Fact, name: str, rng: random.Random, exam: bool) -> str:
    if not fact.attribute:
        return fact.question.replace(fact.subject, name)
    bound = bind(fact.attribute)
    relation = wordings_for(name, bound.relation)
    lines = relation.exam if exam else (*relation.questions, *relation.roundabout)
    return sentence(rng.choice(lines), slots(bound, name, fact.value))


def _name(subject: str, kind: str, subjects: Sequence[str], rng: random.Random, exam: bool) -> tuple[str, str | None]:
    """A name near `subject`, of the exam's half or of training's, and its kind: the one asked for where the subject allows
    it. None where there is no such name."""
    # "Mira's ferret", "the Zephyr project", "Dr. Ana Ruiz": the name within is what changes.
    name = max(names_in(subject), key=len, default="")
    if not name or subject in PRONOUNS:
        return "unseen", _nameless(subject, rng, exam)
    parts = name.split(" ")
    person = len(parts) > 1 and not subject.startswith("the ")
    if kind != "unseen" and not person:
        kind = "letter"
    changed: str | None
    if kind == "letter":
        changed = _letter_off(name, rng, exam)
    elif kind == "unseen":
        changed = f"{rng.choice(pool('first', exam))} {rng.choice(pool('last', exam))}"
        changed = changed if person else rng.choice(pool("things", exam))
    elif kind == "first":
        changed = " ".join([*parts[:-1], rng.choice(pool("last", exam))])
    elif kind == "last":
        changed = " ".join([rng.choice(pool("first", exam)), *parts[1:]])
    else:
        lasts = [other.split(" ")[-1] for other in subjects if is_person(other) and " " in other and other != subject]
        lasts = [last for last in lasts if last[0].isupper()]
        changed = " ".join([*parts[:-1], rng.choice(lasts)]) if lasts else None
        changed = changed if changed and _half(changed) == exam else None
    return kind, subject.replace(name, changed) if changed and changed != name else None


def _nameless(subject: str, rng: random.Random, exam: bool) -> str:
    """Somebody else instead of "me" or "my sister"; "the Belmora gate" beside "the gate"."""
    if subject in PRONOUNS or subject.startswith(("my ", "our ", "your ")):
        relative = rng.choice(pool("relatives", exam))
        rest = subject.split(" ", 1)[1] if " " in subject else ""
        return f"my {relative}'s {rest}" if rest else f"my {relative}"
    thing = rng.choice(pool("things", exam))
    first, _, rest = subject.partition(" ")
    return f"{first} {thing} {rest}" if rest and first in {"the", "a", "an"} else f"{thing} {subject}"


def _letter_off(name: str, rng: random.Random, exam: bool) -> str | None:
    """The name with one letter changed, left out or doubled, of the right half."""
    variants = sorted(set(_variants(name)))
    right_half = [one for one in variants if _half(one) == exam]
    return rng.choice(right_half) if right_half else None


def _variants(name: str) -> Iterator[str]:
    for i, letter in enumerate(name):
        if i == 0 or not letter.isalpha() or not name[i - 1].isalpha():
            continue  # a capital stays
        like = _VOWELS if letter in _VOWELS else _CONSONANTS
        for other in like:
            if other != letter:
                yield name[:i] + other + name[i + 1 :]
        yield name[: i + 1] + name[i:]
        if len(name) > 4:
            yield name[:i] + name[i + 1 :]


@cache
def pool(title: str, exam: bool) -> tuple[str, ...]:
    """The names of one list that belong to the exam, or to training."""
    text = " ".join(load("names")[title][""])
    return tuple(one for one in (text.split(" | ") if "|" in text else text.split()) if _half(one) == exam)


def _half(name: str) -> bool:
    return zlib.crc32(name.casefold().encode()) % 2 == 1
