"""Whether an answer is right: it holds the fact's value, whatever is around it."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from nanohydra.hydra.grammar import NUMBERS
from nanohydra.hydra.material import Fact
from nanohydra.hydra.text import any_of, listed, words

_PASSED_OVER = words("passed over")
_LEADING = words("leading")
_NEGATIONS = words("negations")
_SAME = {"color": "colour", "favorite": "favourite", "gray": "grey", "o'clock": "", "approximately": "about"}
_ENDINGS = re.compile(r"(?<=\d)(?:st|nd|rd|th)$")
_TENS = {word: str(10 * i) for i, word in enumerate(listed("tens"), 2)}
_WORD = re.compile(r"[^\W_]+(?:[.,:@'/+&-][^\W_]+)*", re.UNICODE)
_DECLINES = re.compile(
    r"\b(?:(?:do not|don't|dont|cannot|can't|could not) (?:know|say|tell|have|recall|find)|no (?:idea|information|record)"
    r"|not (?:sure|certain|known|been told)|unknown|never (?:heard|been told)|know nothing|not aware|unable to)\b"
)
LONG = 6  # words: a longer value is right when three quarters of its words are there


def right(fact: Fact, answer: str) -> bool:
    """Whether the answer holds the fact's value as whole words: numbers in either form, articles, case and accents aside.

    A list ("Norwegian and English") needs each of its parts, a date its words in any order, a value of more than six
    words three quarters of them. An answer that says it does not know, denies the value ("not in Bergen") or offers
    another beside it ("Bergen or Oslo") is not right. The fact's own answer always is.
    """
    said, whole = _tokens(answer), _tokens(fact.value)
    if said and said == _tokens(fact.answer):
        return True
    if not whole:  # an article or a sign is all the value: the grade "A", "+"
        value = re.escape(_folded(fact.value).strip())
        return bool(value) and bool(re.search(rf"(?<!\w){value}(?!\w)", _folded(answer)))
    if not said or (declines(answer) and not _DECLINES.search(_folded(fact.value))):
        return False
    if _at(said, whole) is not None:
        return _affirmed(said, whole)
    if re.search(rf"\b{any_of('months')}\b", fact.value):
        return bool(whole) and set(whole) <= set(said)
    parts = [_tokens(part) for part in re.split(r",\s+(?:and\s+)?|\s+and\s+|;\s*", fact.value)]
    parts = [_without_leading(part) for part in parts if part]
    if len(whole) > LONG:
        return sum(word in said for word in whole) >= 0.75 * len(whole)
    return bool(parts) and all(_affirmed(said, part) for part in parts)


def declines(answer: str) -> bool:
    """Whether the answer says that it does not know."""
    return bool(_DECLINES.search(_folded(answer)))


def _affirmed(said: list[str], value: list[str]) -> bool:
    at = _at(said, value)
    if at is None:
        return False
    if set(value) & _NEGATIONS or "or" in value:
        return True
    before, after = said[max(0, at - 3) : at], said[at + len(value) : at + len(value) + 1]
    return not set(before) & _NEGATIONS and "or" not in [*before[-1:], *after]


def _at(said: list[str], value: list[str]) -> int | None:
    if not value:
        return None
    return next((i for i in range(len(said) - len(value) + 1) if said[i : i + len(value)] == value), None)


def _without_leading(words: list[str]) -> list[str]:
    while len(words) > 1 and words[0] in _LEADING:
        words = words[1:]
    return words


@lru_cache(4096)
def _tokens(text: str) -> list[str]:
    found: list[str] = []
    for word in _WORD.findall(_folded(text)):
        word = re.sub(r"'s$|s'$", "", word)
        word = re.sub(r"(?<=\d),(?=\d{3}\b)", "", word)
        # A hyphen binds less than it seems: "thirty-four", "north-east"; within numbers and addresses it stays.
        pieces = word.split("-") if not re.search(r"[\d@]", word) else [word]
        for piece in pieces:
            piece = _ENDINGS.sub("", _SAME.get(piece, piece))
            piece = NUMBERS.get(piece, _TENS.get(piece, piece))
            # "thirty four" is 34.
            tens = (
                found
                and re.fullmatch(r"[2-9]0", found[-1])
                and re.fullmatch(r"[1-9]", piece)
                and pieces[0] not in {piece}
            )
            if tens:
                found[-1] = found[-1][0] + piece
            elif piece and piece not in _PASSED_OVER:
                found.append(piece)
    return found


def _folded(text: str) -> str:
    text = unicodedata.normalize("NFKD", text).replace("’", "'").casefold()
    return "".join(c for c in text if not unicodedata.combining(c))
