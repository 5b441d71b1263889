"""The author's lists: every sentence of tinyworld stands in a text file here, so that a person can read and edit it.

Format: `# title` opens a section, `> part` a part of it, each other line is one alternative; `accept: words` belongs to
the section. Nothing is a comment.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

Sections = dict[str, dict[str, tuple[str, ...]]]


@cache
def load(name: str) -> Sections:
    """Reads `name`.txt beside this file. Returns title -> part -> lines; `accept` is a part too."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    lines: list[str] = []
    for raw in files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").splitlines():
        line = raw.strip()
        if line.startswith("# "):
            section = sections.setdefault(line[2:], {})
        elif line.startswith("> "):
            lines = section.setdefault(line[2:], [])
        elif line.startswith("accept: "):
            section["accept"] = [line[8:]]
        elif line:
            lines.append(line.replace("\\n", "\n"))
    return {title: {part: tuple(ls) for part, ls in parts.items()} for title, parts in sections.items()}
