"""Text to sentences and sentences to clauses, each with its subject."""

from __future__ import annotations

import re

from nanohydra.hydra.grammar import as_subject
from nanohydra.hydra.material import ME
from nanohydra.hydra.relations import verbs
from nanohydra.hydra.text import any_of, words

_BREAK = re.compile(r"(?<=[.!?])[\"”’')\]]*\s+(?=[\"“‘'(\[]?[^\W_a-z])")
_ABBREVIATED = re.compile(
    r"\b(?:Dr|Mr|Ms|Mrs|St|No|Jr|Sr|vs|ca|Prof|e\.g|i\.e|Inc|Ltd|Co|approx|[A-Z])\.[\"”’')\]]*\s+$"
)

# Verbs with which a further clause about the same subject may begin: "... and works as a baker".
VERBS = words("clause verbs") | (
    frozenset(third.split()[0] for third, (_, kind) in verbs().items() if kind == "verb")
    - words("verbs that are nouns too")
)
_CLAUSE_VERB = (
    "(?:" + "|".join(sorted(VERBS | {third.split()[0] for third in verbs()}, key=lambda v: (-len(v), v))) + ")"
)
_SPLIT = re.compile(
    rf"(?:,? and|,? but|;|, who|, which|,|\. Also,?)\s+(?:also |now |currently |then |she |he |they |it )?(?={_CLAUSE_VERB}\b)"
    r"|(?:,? and|;|,? but)\s+(?=(?:her|his|their|its|he|she|they|my|I|it) [a-z])"
)
_SUBJECT = re.compile(rf"(?P<S>.+?) (?:{_CLAUSE_VERB})\b.*", re.DOTALL)
_APPOSITIVE = re.compile(
    rf"(?P<S>[^,]{{2,60}}?), (?P<what>(?:an? |the |born )[^,]+),? (?P<rest>{_CLAUSE_VERB}\b.*)", re.DOTALL
)
_TWICE = re.compile(
    r"(?P<S>.+? (?:was|were) (?:born|founded|established|started|built|set up|written|invented)) "
    r"(?P<one>(?:in|on|at|by) .+?) (?P<two>(?:in|on|at|by) .+)",
    re.DOTALL,
)
_BORN = re.compile(r"(?P<S>[^,()]{2,60}?) \((?:[^()]*; )?(?:born|b\.) (?:on )?(?P<when>[^();]+)\)")
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_CONTRACTIONS = (
    (r"\b([Ii])['’]m\b", r"\1 am"),
    (r"\b(we|you|they|We|You|They)['’]re\b", r"\1 are"),
    (r"\b(I|we|you|they|We|You|They)['’]ve\b", r"\1 have"),
    (r"\b(she|he|it|She|He|It)['’]s got\b", r"\1 has"),
    (r"\b(she|he|it|She|He|It)['’]s\b", r"\1 is"),
    (r"\b(has|have) got\b", r"\1"),
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, white space made single; line breaks end a sentence only before a list item or a blank
    line."""
    found = []
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*•·]|\d+[.)])\s)|\n(?=[^\n:]{2,40}:\s)", text):
        block = " ".join(block.split())
        start = 0
        for m in _BREAK.finditer(block):
            if not _ABBREVIATED.search(block[: m.end()]):
                found.append(block[start : m.end()].strip())
                start = m.end()
        found.append(block[start:].strip())
    return [one for one in found if one]


def tidy(text: str) -> str:
    """A sentence ready to be read: without list marks, emphasis, contractions and words that only open it."""
    text = re.sub(r"^\s*(?:[-*•·>]|\d+[.)])\s+|^#+\s*", "", " ".join(text.split()))
    text = re.sub(r"\*\*|__|`|\*(?=\w)|(?<=\w)\*", "", text)
    text = text.replace("\u00a0", " ").replace("’", "'").strip(' "“”')
    for pattern, replacement in _CONTRACTIONS:
        text = re.sub(pattern, replacement, text)
    for _ in range(2):
        text = re.sub(rf"^{any_of('opening')},? +(?=\S)", "", text)
    text = re.sub(r"^[A-Z][a-z]{4,}(?:ially|ically|ently|inally),? (?=\S)", "", text)
    text = re.sub(rf"\b(?:also|currently|nowadays|now|still|actually) (?={_CLAUSE_VERB}\b)", "", text)
    return re.sub(r"\b(is|are|am|was) (?:also|currently|now|still|actually) ", r"\1 ", text).strip()


def clauses(text: str, last: str | None) -> list[str]:
    """The clauses of a tidy sentence; one without a subject has the first one's. `last`: the sentence's before."""
    aside = _BORN.match(text)
    text = _BRACKETS.sub("", text)
    apart = _APPOSITIVE.fullmatch(text)
    if apart and apart["S"].split()[0].lower() not in words("not a subject"):
        said = apart["what"]
        text = f"{apart['S']} {apart['rest']}"
        extra = [f"{apart['S']} was {said}" if said.startswith("born ") else f"{apart['S']} is {said}"]
    else:
        extra = []
    if aside:
        extra.append(f"{aside['S']} was born {'' if aside['when'].startswith('in ') else 'on '}{aside['when']}")
    parts = [part.strip(" ,") for part in _SPLIT.split(text)]
    first = _SUBJECT.fullmatch(parts[0])
    subject = first["S"] if first else None
    found = [*extra, parts[0]]
    for part in parts[1:]:
        lacks = re.match(rf"{_CLAUSE_VERB}\b", part)
        found.append(f"{subject} {part}" if lacks and subject else part)
    return [piece for part in found if part for piece in _twice(part)]


def _twice(clause: str) -> list[str]:
    """ "born in Trondheim in 1985" tells two things."""
    m = _TWICE.fullmatch(clause)
    return [f"{m['S']} {m['one']}", f"{m['S']} {m['two']}"] if m else [clause]


CLEFT = re.compile(r"it (?:is|was) .+ (?:that|who|whom|which|when|where)\b", re.I)
"""Its "it" stands for nobody: "It is the Iron Office that employs her."."""


def resolve(clause: str, last: str | None) -> tuple[str | None, str]:
    """Whom a clause is about, and the clause with that name in place of a pronoun at its start."""
    first, _, rest = clause.partition(" ")
    if last and rest and not CLEFT.match(clause):
        name = {ME: "I", "us": "we"}.get(last, last)
        if first.lower() in {"he", "she", "they", "it"}:
            rest = re.sub(r"^(?:are|were|have)\b", lambda m: {"are": "is", "were": "was", "have": "has"}[m[0]], rest)
            return last, f"{name} {rest}"
        if first.lower() in {"his", "her", "their", "its"}:
            own = {ME: "my", "us": "our"}.get(last, f"{last}'s")
            return last, f"{own} {rest}"
    found = _SUBJECT.fullmatch(clause)
    if not found:
        return None, clause
    subject = found["S"]
    owner = re.match(r"(.+?)['’]s ", subject)  # "Mira's dog is old. She ...": Mira
    return as_subject(owner[1] if owner else subject), clause
