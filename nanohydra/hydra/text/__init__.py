"""The sentences and word lists of teaching, as text files that a person can read and edit.

Format: `# title` opens a section and `> part` a part of it; before its first part a section may hold `about:`, `value:` and
`many:`. Each other line is one alternative. The wordings of the exam (exam.txt) stand apart from those of training.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

Sections = dict[str, dict[str, tuple[str, ...]]]


@cache
def load(name: str) -> Sections:
    """Reads `name`.txt beside this file. Returns title -> part -> lines; lines before the first part are part ""."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    lines: list[str] = []
    for raw in files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if line.startswith("# "):
            section = sections.setdefault(line[2:], {})
            lines = section.setdefault("", [])
        elif line.startswith("> "):
            lines = section.setdefault(line[2:], [])
        elif lines is section.get("") and line.startswith(("about: ", "value: ", "many: ")):
            key, _, value = line.partition(": ")
            section[key] = value.split(" | ")
        elif line:
            lines.append(line)
    return {title: {part: tuple(ls) for part, ls in parts.items()} for title, parts in sections.items()}


@cache
def listed(title: str) -> tuple[str, ...]:
    """A list of words.txt, in its order."""
    return tuple(" ".join(load("words")[title][""]).split(" | "))


@cache
def words(title: str) -> frozenset[str]:
    """A list of words.txt as a set."""
    return frozenset(listed(title))


@cache
def any_of(title: str) -> str:
    """A regular expression for any word of a list of words.txt."""
    return "(?:" + "|".join(sorted(map(re.escape, words(title)), key=lambda word: (-len(word), word))) + ")"
