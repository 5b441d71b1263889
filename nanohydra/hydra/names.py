"""Who or what a question names: whole words, as people write them, and no name that only looks alike.

"mira solbergs birthplace", "MIRA SOLBERG" and "Mira Solberg’s" name Mira Solberg; "Mira Solheim", "Anna-Mira Solberg" and
"Mira Solberg Hansen" are other people. A first or last name alone names its bearer where only one is known and no other
name stands beside it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nanohydra.hydra.plain_words import FIRST_PERSON, OWNED, PARTICLES, PLAIN, PRONOUNS, TITLES

Name = tuple[str, ...]
"""The folded words of a name, without an article before them."""

ARTICLES = frozenset({"the", "a", "an"})
FOLLOW_UPS = (
    ("and",),
    ("what", "about"),
    ("how", "about"),
    ("also",),
    ("or",),
    ("since", "when"),
    ("why",),
    ("really",),
)

_WORD = re.compile(r"[^\W_]+(?:['’ʼ][^\W_]+)*")
_SPECIAL = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text with what its writing tells."""

    text: str
    """Folded: no case, accents or apostrophes, and no possessive ending."""
    capital: bool
    starts: bool
    """Whether a sentence begins here."""
    apart: bool
    """Whether punctuation separates it from the word before."""
    joined: bool
    """Whether a hyphen joins it to the word before."""
    possessive: bool
    begin: int
    """Where its characters begin in the text, without a possessive ending."""
    end: int


def fold(word: str) -> str:
    """A word without case and accents."""
    decomposed = unicodedata.normalize("NFKD", word.casefold().translate(_SPECIAL))
    return "".join(c for c in decomposed if c.isalnum())


def words(text: str) -> list[Word]:
    """The words of a text in order."""
    found: list[Word] = []
    end = 0
    for match in _WORD.finditer(text):
        written, between = match.group(), text[end : match.start()]
        first, end = not found, match.end()
        possessive = re.search(r"['’ʼ][sS]$", written) is not None or text[end : end + 1] in {"'", "’", "ʼ"}
        bare = re.sub(r"['’ʼ][sS]$", "", written)
        starts = first or re.search(r"[.!?:;\n\"“«]", between) is not None
        apart = first or between.strip() not in {"", "-", "‐", "‑", "'", "’"}
        joined = not first and between in {"-", "‐", "‑"}
        if folded := fold(bare):
            begin = match.start()
            found.append(Word(folded, bare[0].isupper(), starts, apart, joined, possessive, begin, begin + len(bare)))
    return found


def name_of(subject: str) -> Name:
    """The words by which a subject is recognised."""
    name = tuple(word.text for word in words(subject))
    return name[1:] if len(name) > 1 and name[0] in ARTICLES else name


@dataclass(frozen=True, slots=True)
class Mention:
    """A name found in words[start:end] of a question; `sure` where all of a proper name of several words stands there."""

    name: Name
    start: int
    end: int
    sure: bool


class Names:
    """The names of some subjects, to be found in questions.

    Args:
        subjects: as they were taught ("Mira Solberg", "the Silver Library", "office").
        texts: what was taught, whose uncapitalised words may stand beside names.
    """

    def __init__(self, subjects: Iterable[str], texts: Iterable[str] = ()) -> None:
        self._by_first: dict[str, list[Name]] = {}
        self._bearers: dict[Name, set[Name]] = {}
        self._proper: dict[Name, bool] = {}
        for subject in subjects:
            name = name_of(subject)
            if not name or name in self._proper:
                continue
            written = words(subject)[-len(name) :]
            self._proper[name] = proper = all(w.capital or w.text in PARTICLES or w.text.isdigit() for w in written)
            self._by_first.setdefault(name[0], []).append(name)
            parts = [tuple(word.text for word in words(part)) for part in subject.split()]
            if (
                proper and len(parts) > 1 and tuple(w for part in parts for w in part) == name
            ):  # not of "the Silver Library"
                for part in (parts[0], parts[-1]):
                    self._bearers.setdefault(part, set()).add(name)
        for names in self._by_first.values():
            names.sort(key=len, reverse=True)
        self._part_words = {word for part in self._bearers for word in part}
        self._plain = PLAIN | {w.text for text in texts for w in words(text) if not w.capital}

    def __contains__(self, name: Name) -> bool:
        return name in self._proper

    def find(self, text: str | Sequence[Word]) -> list[Mention]:
        """The names in a text, in order; of overlapping ones the longest."""
        said = words(text) if isinstance(text, str) else list(text)
        found: list[Mention] = []
        place = 0
        while place < len(said):
            mention = self._whole(said, place) or self._part(said, place)
            if mention:
                found.append(mention)
            place = mention.end if mention else place + 1
        return found

    def strangers(self, said: Sequence[Word], mentions: Sequence[Mention] = ()) -> list[tuple[int, int]]:
        """Runs of words, [start, end), that look like names and are none of `mentions`.

        Where capitals tell nothing, only what stands beside a part of a taught name is seen: "mira solheim".
        """
        known = {i for mention in mentions for i in range(mention.start, mention.end)}
        runs: list[tuple[int, int]] = []
        cased = _cased(said)
        for i, word in enumerate(said):
            if i in known or word.text in TITLES or not (self._name_like(said, i) if cased else self._beside(said, i)):
                continue
            if runs and runs[-1][1] == i and not word.apart:
                runs[-1] = (runs[-1][0], i + 1)
            else:
                runs.append((i, i + 1))
        return [(a, b) for a, b in runs if b - a > 1 or not (cased and said[a].starts)]

    def _name_like(self, said: Sequence[Word], place: int) -> bool:
        """Whether a word is capitalised for no other reason than being a name."""
        word = said[place]
        return word.capital and word.text not in FIRST_PERSON and not (word.starts and word.text in PLAIN)

    def _beside(self, said: Sequence[Word], place: int) -> bool:
        """Whether a word is a part of a taught name, or unknown and next to one."""
        if said[place].text in self._part_words:
            return True
        near = [said[i].text for i in (place - 1, place + 1) if 0 <= i < len(said)]
        return said[place].text not in self._plain and any(text in self._part_words for text in near)

    def _whole(self, said: Sequence[Word], start: int) -> Mention | None:
        """A name of which every word stands at `start`."""
        for name in self._by_first.get(said[start].text, ()):
            end = start + len(name)
            if end > len(said) or not _same(name, said, start, end):
                continue
            if not self._proper[name]:
                return Mention(name, start, end, sure=False)
            several = len(name) > 1
            if self._alone(said, start, end, strict=not several):
                return Mention(name, start, end, sure=several)
        return None

    def _part(self, said: Sequence[Word], place: int) -> Mention | None:
        """A first or last name that stands alone and has one bearer."""
        for end in range(min(place + 3, len(said)), place, -1):
            part = tuple(word.text for word in said[place:end])
            bearers = self._bearers.get(part, set())
            if len(bearers) == 1 and part not in self._proper and part[0] not in PLAIN:
                return Mention(next(iter(bearers)), place, end, False) if self._alone(said, place, end, True) else None
        return None

    def _alone(self, said: Sequence[Word], start: int, end: int, strict: bool) -> bool:
        """Whether no other name touches words[start:end].

        Where capitals tell nothing, a neighbour must be a plain word if `strict`; beside a whole name it may be anything.
        """
        if said[start].joined or (end < len(said) and said[end].joined):
            return False
        cased = _cased(said) and all(said[i].capital or said[i].text in PARTICLES for i in range(start, end))
        before = said[start - 1] if start and not said[start].apart and not said[start - 1].possessive else None
        after = said[end] if end < len(said) and not said[end].apart and not said[end - 1].possessive else None
        if before and before.text not in TITLES:
            if before.text in PARTICLES and strict:
                return False
            if (
                cased
                and before.capital
                and not (before.text in PLAIN or (before.starts and before.text in self._plain))
            ):
                return False
            if not cased and strict and before.text not in self._plain:
                return False
        if after:
            if after.text in PARTICLES and end + 1 < len(said) and (said[end + 1].capital or not cased):
                return False
            if cased and after.capital and after.text != "i":
                return False
            if not cased and strict and after.text not in self._plain:
                return False
        return True


def _same(name: Name, said: Sequence[Word], start: int, end: int) -> bool:
    """Whether words[start:end] are the name; its last word may end in the "s" of "mira solbergs birthplace"."""
    if any(said[i].apart for i in range(start + 1, end)):
        return False
    here = [word.text for word in said[start:end]]
    if here[:-1] != list(name[:-1]):
        return False
    if here[-1] == name[-1]:
        return True
    more = end < len(said) and not said[end].apart and not said[end].capital and said[end].text not in PLAIN - OWNED
    return more and here[-1] == name[-1] + "s" and len(name[-1]) > 2


def _cased(said: Sequence[Word]) -> bool:
    """Whether capitals tell names from other words: some word has one, and not nearly all have."""
    capitals = sum(word.capital for word in said)
    return any(w.capital for w in said if not w.starts) and (capitals <= 0.7 * len(said) or len(said) < 4)


def follows_up(said: Sequence[Word]) -> bool:
    """Whether words go on about what was spoken of: a pronoun without a name before it, or a beginning like "And"."""
    texts = [word.text for word in said]
    return any(text in PRONOUNS for text in texts) or any(
        tuple(texts[: len(opening)]) == opening and len(texts) <= 12 for opening in FOLLOW_UPS
    )
