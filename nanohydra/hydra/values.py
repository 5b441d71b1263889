"""What the values of relations look like: each kind is a function from a phrase to the value in it, or None."""

from __future__ import annotations

import re
from collections.abc import Callable

from nanohydra.hydra.grammar import NUMBERS
from nanohydra.hydra.text import any_of, words

_PLACE_WORDS = (
    r"(?:in|at|on|near|under|behind|beside|beneath|between|inside|outside|opposite|above|below|next to|close to"
    r"|(?:north|south|east|west) of)"
)
_ASIDE = re.compile(
    r"(?:,?\s+(?:which|who|whom|where|but|because|although|though|since|while|whereas|unless|until|so that|even though"
    r"|following|after|before|during|together with|along with|as well as|with (?:her|his|their|my|its|our))\b"
    r"|,\s+(?:and|then)\s|\s+[—–-]\s|\s*[;(]).*$",
    re.DOTALL,
)
_AN = re.compile(r"^(?:an?|A|An) ")


def trimmed(text: str) -> str:
    """The phrase without what is said by the way: "Bergen with her ferret" is "Bergen"."""
    text = _ASIDE.sub("", " ".join(text.split()).strip())
    text = text.strip(' ,.!?:"“”').strip()
    return text if re.search(r"[^\W_]", text) else ""


def read_value(kind: str, text: str) -> str | None:
    """The value of that kind which the phrase is, or None."""
    text = trimmed(text)
    if not text or len(text.split()) > 12:
        return None
    # A value at the start of a sentence has a capital that is not its own.
    return _KINDS[kind](text) or _KINDS[kind](text[0].lower() + text[1:])


def looks_like(kind: str, text: str) -> bool:
    """Whether the phrase is a value of that kind."""
    return read_value(kind, text) is not None


def _capitalised(text: str) -> bool:
    return bool(re.match(r"[^\W\d_]", text)) and (text[0].isupper() or (text[0].lower() == text[0].upper()))


def _dated(text: str) -> bool:
    months_days = rf"\b(?:{any_of('months')}|{any_of('days')})\b"
    return bool(
        re.search(months_days, text)
        or re.search(
            r"\b\d{1,4}[./-]\d{1,2}(?:[./-]\d{2,4})?\b|\b\d{1,2}(?:[:.]\d\d)?\s?(?:am|pm|a\.m|p\.m|o'clock)", text
        )
        or re.search(r"\b\d{1,2}:\d\d\b", text)
    )


def _place(text: str) -> str | None:
    if _dated(text) or _year(text) or re.match(r"\d", text) or len(text.split()) > 8:
        return None
    return text if _capitalised(text) or re.match(r"(?:an?|the|my|our) ", text) else None


def _year(text: str) -> str | None:
    m = re.fullmatch(r"(?:the year |about |around )?(\d{3,4}(?: (?:AD|BC|CE|BCE))?)", text)
    return m[1] if m else None


def _date(text: str) -> str | None:
    return re.sub(r"^(?:the|on|by) ", "", text) if _dated(text) else None


def _time(text: str) -> str | None:
    begins = re.match(r"(?:at|on|from|every|each|between|in|by|until|daily|weekly|tomorrow|tonight|next)\b", text)
    if not begins and not re.match(rf"(?:{any_of('days')}|\d)", text):
        return None
    if re.fullmatch(r"in (?:the year )?\d{4}", text):
        return text
    if _dated(text) or re.search(r"\b(?:noon|midnight|dawn|dusk|tomorrow|tonight)\b", text):
        return text
    clock = re.search(rf"\b(?:at|from|between) (?:half past |quarter (?:past|to) )?(?:\d|{'|'.join(NUMBERS)}\b)", text)
    return text if clock else None


def _where(text: str) -> str | None:
    if _time(text) or not re.match(rf"{_PLACE_WORDS} \S", text):
        return None
    rest = re.sub(rf"^{_PLACE_WORDS} ", "", text)
    return (
        text
        if not _year(rest) and re.match(r"(?:[A-Z]|the |an? |my |our |\w+ (?:street|road|drawer|room))", rest)
        else None
    )


def _number(text: str) -> str | None:
    if re.fullmatch(r"\d[\d,.]*(?: (?:million|billion|thousand))?", text):
        return text
    number = rf"(?:{'|'.join(NUMBERS)}|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|dozen|and|an?)"
    return text if re.fullmatch(rf"{number}(?:[ -]{number})*", text) and text not in {"a", "an", "and"} else None


def _phone(text: str) -> str | None:
    return text if re.fullmatch(r"\+?[\d(][\d ()/.-]{2,}\d", text) else None


def _email(text: str) -> str | None:
    return text if re.fullmatch(r"[^\s@]+@[^\s@]+\.\w+", text) else None


def _when(text: str) -> str:
    return re.sub(r" (?:in|since|around) (?:the year )?\d{3,4}$", "", text)


def _person(text: str) -> str | None:
    text = _when(text)
    named = _capitalised(text) and len(text.split()) <= 8 and not _dated(text)
    return text if named or re.match(r"(?:my|our|the) \w", text) else None


def _name(text: str) -> str | None:
    text = _when(text)
    if re.match(r"(?:the moment|present|home|night|once|least|last|all|work)\b", text) or _dated(text):
        return None
    return text if _capitalised(text) or re.match(r"(?:an?|the|my|our) \w", text) or re.match(r"\d", text) else None


def _animal(text: str) -> str | None:
    text = _AN.sub("", text, count=1)
    kind = rf"{any_of('animals')}(?:e?s)?"
    listed = rf"(?:[\w-]+ ){{0,3}}?{kind}"
    return (
        text if re.fullmatch(rf"{listed}(?:(?:, | and (?:an? )?){listed})*", text) and len(text.split()) <= 8 else None
    )


def _instrument(text: str) -> str | None:
    ok = text and text[0].islower() and len(text.split()) <= 6
    return (
        re.sub(r"\b(and|,) the ", r"\1 ", text)
        if ok and not re.match(r"(?:in|at|on|for|with|an?|the)\b", text)
        else None
    )


def _language(text: str) -> str | None:
    text = re.sub(r"^(?:fluent|some|a little|good|perfect) |(?: very well| fluently| well| at home)+$", "", text)
    one = rf"(?:[A-Z]\w+ )?{any_of('languages')}"
    listed = re.fullmatch(rf"{one}(?:(?:,? and |, |,? or ){one})*", text)
    return text if listed or re.fullmatch(r"[A-Z]\w+(?:(?:,? and |, )[A-Z]\w+)*", text) else None


def _nationality(text: str) -> str | None:
    known = words("nationalities") | words("languages")
    return _AN.sub("", text, count=1) if _AN.sub("", text, count=1) in known else None


def _measure(text: str) -> str | None:
    return (
        text
        if re.fullmatch(
            rf"(?:about )?\d[\d.,]*\s?{any_of('measures')}(?: (?:and )?\d+(?: {any_of('measures')})?)?", text
        )
        else None
    )


def _weight(text: str) -> str | None:
    return text if re.fullmatch(rf"(?:about )?\d[\d.,]*\s?{any_of('weights')}", text) else None


def _price(text: str) -> str | None:
    amount = rf"(?:\d[\d.,]*|{'|'.join(NUMBERS)}|(?:twenty|thirty|forty|fifty|hundred)[\w -]*)"
    paid = rf"(?:[€$£¥]\s?\d[\d.,]*(?: (?:thousand|million))?|{amount}\s?(?:[€£$]|(?:\w+ )?{any_of('money')}))"
    return text if re.fullmatch(rf"(?:about )?{paid}(?: (?:a|an|per|and) [\w ]+)?", text) else None


def _colour(text: str) -> str | None:
    return text if re.fullmatch(rf"(?:\w+[ -])?{any_of('colours')}(?:(?: and |, ){any_of('colours')})*", text) else None


def _address(text: str) -> str | None:
    return text if re.search(r"\d", text) and re.search(r"[A-Z]\w+", text) and len(text.split()) > 1 else None


def _thing(text: str) -> str | None:
    return _AN.sub("", text, count=1) or None


def _phrase(text: str) -> str | None:
    return text


_KINDS: dict[str, Callable[[str], str | None]] = {
    "place": _place,
    "year": _year,
    "date": _date,
    "time": _time,
    "where": _where,
    "number": _number,
    "phone": _phone,
    "email": _email,
    "person": _person,
    "name": _name,
    "animal": _animal,
    "instrument": _instrument,
    "language": _language,
    "nationality": _nationality,
    "measure": _measure,
    "weight": _weight,
    "price": _price,
    "colour": _colour,
    "address": _address,
    "thing": _thing,
    "phrase": _phrase,
}
