"""What a lesson is made of: facts and the passages they were drawn from. Plain data both ways, and no torch."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

ME = "me"  # the subject of what a person says of themselves: "I live in Oslo."


@dataclass(frozen=True)
class Fact:
    """One thing to know, with one natural question and the sentence that answers it."""

    subject: str
    """Whom or what it is about: "Mira Solberg"; "me" for the person who teaches, "my sister" for theirs; "" where a pair
    is about nothing nameable."""
    attribute: str
    """"birthplace", "favourite tea", or "" for a free pair of question and answer."""
    value: str
    """What a right answer must hold, short: "Trondheim"."""
    question: str
    """One natural question: "Where was Mira Solberg born?"."""
    answer: str
    """A full sentence: "Mira Solberg was born in Trondheim."."""
    passage: int | None = None
    """The number of the passage in its material that it was drawn from."""

    @cached_property
    def key(self) -> str:
        """16 hex digits of what is asked, without its value: two facts with one key and different values contradict."""
        asked = f"{plain(self.subject)}\n{plain(self.attribute)}" if self.attribute else f"?\n{plain(self.question)}"
        return hashlib.sha256(asked.encode()).hexdigest()[:16]

    def to_data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Fact:
        """The inverse of to_data; keys that are not a fact's are passed over."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


@dataclass(frozen=True)
class Passage:
    """A piece of a document, short enough to be quoted."""

    number: int
    """Its place in its material, from 0."""
    text: str
    source: str
    """Where it comes from: "notes.pdf, page 3", or "pasted text"."""

    def to_data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Passage:
        """The inverse of to_data."""
        return cls(data["number"], data["text"], data["source"])


@dataclass(frozen=True)
class Material:
    """All that one lesson teaches. Its facts have different keys."""

    name: str
    facts: tuple[Fact, ...]
    passages: tuple[Passage, ...]
    notes: tuple[str, ...] = ()
    """What to tell the person: a sentence for each thing that was left out, or decided between two."""

    def to_data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {
            "name": self.name,
            "facts": [fact.to_data() for fact in self.facts],
            "passages": [passage.to_data() for passage in self.passages],
            "notes": list(self.notes),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Material:
        """The inverse of to_data."""
        facts = tuple(Fact.from_data(fact) for fact in data["facts"])
        passages = tuple(Passage.from_data(passage) for passage in data["passages"])
        return cls(data["name"], facts, passages, tuple(data.get("notes", ())))


@dataclass(frozen=True)
class Known:
    """A fact of an earlier lesson, as `novelty.compare` meets it."""

    fact: Fact
    id: str = ""
    """The fact's id in the store."""
    lesson: str = ""
    """The lesson's id, or its name."""
    since: str = ""
    """When it was taught, as ISO 8601."""


def plain(text: str) -> str:
    """Text as it is compared: case, white space, and dots and question marks at its end aside."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).rstrip(".?! ").casefold()
