"""Templates with slots, to write sentences and to read them: a subject in its forms, a verb that agrees with it, a value.

Slots: {S} the subject, {O} as object, {Sp} possessive; {V} the value, {aV} with its article; {T} what an attribute is about
("favourite {T}"), {A} an attribute's name; {is} {was} {does} {has} and the endings {s} {es} {ies} agree with the subject.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nanohydra.hydra.material import ME
from nanohydra.hydra.text import listed, words

US, YOU = "us", "you"
Slots = dict[str, str]

# As the person who asks says it, and as the one who answers says it.
_SPEAKERS = {
    ME: (("I", "me", "my"), ("you", "you", "your")),
    US: (("we", "us", "our"), ("you", "you", "your")),
    YOU: (("you", "you", "your"), ("I", "me", "my")),
}
_PARTICLES = frozenset(
    {"of", "the", "de", "van", "von", "der", "da", "di", "du", "la", "le", "af", "den", "el", "al", "bin"}
)
_OWN = {"my": ME, "our": US, "your": YOU}
_OTHER_OWN = {"my": "your", "our": "your", "your": "my"}
_SINGULAR = {"is": "is", "was": "was", "does": "does", "has": "has", "s": "s", "es": "es", "ies": "ies"}
_PLURAL = {"is": "are", "was": "were", "does": "do", "has": "have", "s": "", "es": "", "ies": "y"}


def subject_slots(subject: str, answering: bool = False) -> Slots:
    """The slots of a subject as the asking person says them, or as the answering one does: "my sister", "your sister"."""
    if subject in _SPEAKERS:
        nominative, objective, possessive = _SPEAKERS[subject][answering]
        agreement = _PLURAL | ({"is": "am", "was": "was"} if nominative == "I" else {})
        return {"S": nominative, "O": objective, "Sp": possessive} | agreement
    name = turned(subject) if answering else subject
    return {"S": name, "O": name, "Sp": f"{name}'s"} | (_PLURAL if is_plural(subject) else _SINGULAR)


def turned(text: str) -> str:
    """A phrase as the other side of a conversation says it: "my sister" is "your sister"."""
    first, _, rest = text.partition(" ")
    return f"{_OTHER_OWN[first.lower()]} {rest}" if rest and first.lower() in _OTHER_OWN else text


def is_plural(subject: str) -> bool:
    """Whether a verb after this subject is in the plural: "my parents", "Mira and Ola"."""
    last = subject.rsplit(" ", 1)[-1]
    counted = bool(re.match(r"(?:my|our|your|the|these|those) ", subject, re.I)) and last.islower()
    return (counted and last.endswith("s") and not last.endswith(("ss", "us", "is", "'s", "’s"))) or (
        " and " in subject and not subject.startswith("the ")
    )


def with_article(noun: str) -> str:
    """The noun with an indefinite article where it takes one: "a ferret", "an old ferret", "the mayor", "two cats"."""
    first = noun.split(" ", 1)[0]
    last = noun.rsplit(" ", 1)[-1]
    if (
        first.lower() in DETERMINERS
        or first[:1].isdigit()
        or (last.endswith("s") and not last.endswith(("ss", "us", "is")))
    ):
        return noun
    vowel = first[:1].lower() in "aeiou" and not re.match(r"(?:uni|use|eu|one)", first, re.I)
    return f"an {noun}" if vowel else f"a {noun}"


def names_in(text: str) -> list[str]:
    """The names in a text: runs of words with a capital, joined by "of", "van" and the like; in any script that has one."""
    found: list[list[str]] = [[]]
    for word in re.findall(r"(?:Dr|Mr|Mrs|Ms|Prof|St|[A-Z])\.|[\w'’.-]*\w|\S", text):
        if word[0].isupper() or (found[-1] and word in _PARTICLES):
            found[-1].append(word)
        elif found[-1]:
            found.append([])
    runs = []
    for run in found:
        while run and run[-1] in _PARTICLES:
            run.pop()
        runs.append(re.sub(r"['’]s$", "", " ".join(run)))
    return [run for run in runs if run and run != "I" and not run.startswith(("I'", "I’"))]


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def sentence(template: str, slots: Slots) -> str:
    """The template filled: a capital at its start, one full stop or question mark at its end."""
    text = capital(template.format_map(slots))
    return re.sub(r"(?<=[.?!])\.$", "", text)


ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {word: str(i) for i, word in enumerate(listed("numbers"))}
DETERMINERS = words("determiners") | frozenset(NUMBERS)


@dataclass(frozen=True)
class Reader:
    """A template that reads sentences: which value it may hold is decided by `values.py`."""

    template: str
    regex: re.Pattern[str]
    literal: str
    """The longest stretch of plain words in it: a sentence without it cannot match (in lower case)."""

    def match(self, text: str, lower: str) -> dict[str, str] | None:
        """The texts of the slots where the whole `text` fits (`lower` is the same in lower case); the subject as `S`, as
        a fact has it."""
        if self.literal not in lower:
            return None
        m = self.regex.fullmatch(text)
        if m is None:
            return None
        found = {name: value.strip() for name, value in m.groupdict().items() if value}
        if "S" in found:
            found["S"] = as_subject(found["S"], possessive="{Sp}" in self.template)
        return found


def as_subject(text: str, possessive: bool = False) -> str:
    """A subject as a fact has it, from how a sentence has it: "I" is "me", "Mira's" is "Mira", "The gate" is "the gate"."""
    text = text.strip()
    if possessive:
        if text.lower() in _OWN:
            return _OWN[text.lower()]
        text = re.sub(r"['’]s$|(?<=s)['’]$", "", text)
    lower = text.lower()
    if lower in {"i", "me", "myself"}:
        return ME
    if lower in {"we", "us"}:
        return US
    if lower == "you":
        return YOU
    return re.sub(r"^(?:The|A|An|My|Our|Your|This|His|Her|Its|Their)(?= )", lambda m: m[0].lower(), text)


_PATTERNS = {
    "S": r"(?P<S>.+?)",
    "O": r"(?P<S>.+?)",
    "Sp": r"(?P<S>.+?['’]s|.+?s['’]|[Mm]y|[Oo]ur|[Yy]our)",
    "V": r"(?P<V>.+?)",
    "aV": r"(?:[Aa]n? )?(?P<V>.+?)",
    "T": r"(?P<T>[\w'’-]+(?: [\w'’-]+){0,3}?)",
    "A": r"(?P<A>[\w'’-]+(?: [\w'’-]+){0,3}?)",
    "is": "(?:is|are|am)",
    "was": "(?:was|were)",
    "does": "(?:does|do)",
    "has": "(?:has|have)",
    "s": "s?",
    "es": "(?:es)?",
    "ies": "(?:ies|y)",
    "Who": "(?:Who|What)",
    "who": "(?:who|what)",
}


def reader(template: str, slots: dict[str, str] | None = None) -> Reader | None:
    """The template as a regular expression; `slots` replaces the patterns of some. None where a slot would stand twice."""
    patterns = _PATTERNS | (slots or {})
    parts = re.split(r"\{(\w+)\}", template.rstrip(".?, "))
    names = parts[1::2]
    subjects = sum(name in {"S", "O", "Sp"} for name in names)
    if subjects > 1 or len(set(names)) < len(names):
        return None
    out: list[str] = []
    for i, part in enumerate(parts):
        if i % 2:
            out.append(patterns[part])
        elif part:
            # The first letter of a sentence may be either case, and what things are "of" they may also be "for".
            text = re.escape(part).replace(r"\ of\ ", r"\ (?:of|for)\ ").replace("'", "['’]")
            if not out and part[0].isalpha():
                text = f"[{part[0].upper()}{part[0].lower()}]{text[1:]}"
            out.append(text)
    literals = [piece for part in parts[::2] for piece in part.split(" of ")]
    literal = max((piece.strip().lower() for piece in literals), key=len, default="")
    return Reader(template, re.compile("".join(out) + r"[.?!,]*"), literal)
