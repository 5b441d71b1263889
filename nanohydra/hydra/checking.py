"""An answer from weights, checked against what was taught while it is written.

It is held back until it tells one of the facts that it should; from then on it is shown as it comes. One that ends without
having told any is never seen: the plan's quotation takes its place.

Use:
    check = Check(plan)
    for piece in pieces: show(check.push(piece, piece.text))
    show(check.end() if check.stands else the quotation of check.instead)
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from nanohydra.hydra.recall import Plan

T = TypeVar("T")
_LAST_WORD = re.compile(r"\w+$")


class Check(Generic[T]):
    """One answer in the writing. A plan without anything to hold an answer against lets all pass."""

    def __init__(self, plan: Plan | None) -> None:
        self.instead = plan.instead if plan else None
        self._tells = plan.tells if plan else lambda _: True
        self._text = ""
        self._held: list[T] = []
        self._passed = self.instead is None

    @property
    def stands(self) -> bool:
        """Whether the answer, as far as it is written, tells what it should."""
        return self._passed or self._tells(self._text)

    def push(self, piece: T, text: str = "") -> list[T]:
        """What may be shown now that a piece with this text was written: all that was held with it, or nothing yet."""
        self._text += text
        self._held.append(piece)
        if not self._passed and text:
            # The last word may go on: "12" is not yet "125".
            self._passed = self._tells(_LAST_WORD.sub("", self._text))
        return self.end() if self._passed else []

    def end(self) -> list[T]:
        """What is still held, to be shown where the answer stands."""
        held, self._held = self._held, []
        return held
