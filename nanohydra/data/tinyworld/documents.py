"""What tinyworld yields: plain texts and chats, in the message format of the chat template."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import gcd

from nanohydra.data.chat import Message, Part


@dataclass(frozen=True)
class Document:
    """A plain text or a chat; the other field is empty. `register` names the kind of text."""

    register: str
    text: str = ""
    messages: list[Message] = field(default_factory=list)

    def plain(self) -> str:
        """All words as plain text, a turn a line; calculator calls read like `12 + 30 = 42`. For tokenizers and people."""
        if self.text:
            return self.text
        return "\n".join(plain(message["content"]) for message in self.messages)


def plain(content: str | list[Part]) -> str:
    """A message's content as plain text."""
    if isinstance(content, str):
        return content
    return "".join(p["text"] if p["type"] == "text" else f"{p['expression']} = {p['result']}" for p in content)


def user(words: str) -> Message:
    """A user's turn."""
    return {"role": "user", "content": words}


def assistant(parts: list[Part]) -> Message:
    """An assistant's turn; a single text becomes a plain string."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return {"role": "assistant", "content": parts[0]["text"]}
    return {"role": "assistant", "content": parts}


def shuffled(count: int, rng: random.Random) -> Iterator[int]:
    """0 .. count - 1 in a random order; beyond 100,000 by an affine map, so that nothing large is held."""
    if count <= 100_000:
        order = list(range(count))
        rng.shuffle(order)
        yield from order
        return
    step = rng.randrange(count // 3, count)
    while gcd(step, count) != 1:
        step += 1
    start = rng.randrange(count)
    for i in range(count):
        yield (start + i * step) % count


def deck(count: int, rng: random.Random) -> Iterator[int]:
    """Endless rounds of 0 .. count - 1, each round in a new order: everything comes up equally often."""
    while True:
        yield from shuffled(count, rng)
