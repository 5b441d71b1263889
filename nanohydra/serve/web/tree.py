"""A conversation's messages as the tree they are: which are shown, and which stand beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanohydra.store import Message


@dataclass(frozen=True)
class Turn:
    """A message that is shown, with its siblings: other versions of it, oldest first."""

    message: Message
    siblings: tuple[int, ...]

    @property
    def place(self) -> int:
        """Which of its siblings it is, from 0."""
        return self.siblings.index(self.message.id)


def shown_turns(messages: Sequence[Message], head: int | None) -> list[Turn]:
    """The path from the conversation's beginning to `head`."""
    known = {m.id: m for m in messages}
    children = _children(messages)
    turns: list[Turn] = []
    at = known.get(head) if head is not None else None
    while at is not None:
        turns.append(Turn(at, tuple(children[at.parent_id])))
        at = known.get(at.parent_id) if at.parent_id is not None else None
    return turns[::-1]


def newest_leaf(messages: Sequence[Message], start: int) -> int:
    """Where the branch that begins with `start` leads when the newest message is taken at each fork."""
    children = _children(messages)
    while start in children:
        start = children[start][-1]
    return start


def _children(messages: Sequence[Message]) -> dict[int | None, list[int]]:
    children: dict[int | None, list[int]] = {}
    for message in messages:
        children.setdefault(message.parent_id, []).append(message.id)
    return children
