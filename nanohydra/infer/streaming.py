"""From the ids of one answer, as they come, to text and tool calls that a person may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from nanohydra.agent.calculator import Tool
from nanohydra.data.chat import Part, calculator_part, plain_text, text_part
from nanohydra.data.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True)
class Logprob:
    """How likely the model itself found a token: natural logarithms, before temperature, filters and any grammar."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with theirs, best first, as many as were asked for."""


@dataclass(frozen=True)
class Timing:
    """How long one request took."""

    first_token: float
    """Seconds from submission to the first token (waiting and prompt included)."""
    seconds: float
    """Seconds from submission to the end."""
    tokens_per_second: float
    """Tokens after the first, over the seconds after the first; 0 where there is only one."""


@dataclass(frozen=True)
class Completion:
    """A finished answer."""

    ids: list[int]
    """All tokens after the prompt: also forced tool results and the token that ended the answer."""
    parts: list[Part]
    """Text and tool calls in order."""
    finish_reason: FinishReason
    """stop: end of turn, a stop string, or a prescribed form is complete; length: max_tokens or the context is full; abort:
    taken back; error: no token fits the prescribed form."""
    timing: Timing
    logprobs: list[Logprob | None] = field(default_factory=list)
    """One for each of `ids` where asked for; None for what a tool wrote."""
    cached_tokens: int = 0
    """Tokens of the prompt that did not have to be read, as another request had begun alike."""

    @property
    def text(self) -> str:
        """The answer as a person reads it: a tool call shows its result."""
        return plain_text(self.parts)


@dataclass(frozen=True)
class Delta:
    """What is new in an answer. The texts of all deltas, joined, are the completion's text."""

    text: str = ""
    """New visible text; of a tool call its result."""
    part: Part | None = None
    """The tool call that this is, where it is one."""
    completion: Completion | None = None
    """The whole answer, in the last delta only."""
    ids: list[int] = field(default_factory=list)
    """The tokens since the last delta. Joined, they are the completion's."""
    logprobs: list[Logprob | None] = field(default_factory=list)
    """One for each of `ids` where asked for."""


@dataclass
class Transcript:
    """Decodes one answer. Never gives half a character, nor anything that may turn out to belong to a stop string.

    Stop strings are looked for in the text that the model writes, not in the results of tools.
    """

    tokenizer: Tokenizer
    stop: tuple[str, ...] = ()
    tools: Sequence[Tool] = ()
    parts: list[Part] = field(default_factory=list)
    """What may be seen so far."""
    stopped: bool = False
    """Whether a stop string was met."""
    new: list[Delta] = field(default_factory=list)
    """Deltas not yet taken."""

    def __post_init__(self) -> None:
        special = self.tokenizer.special
        known = [tool for tool in self.tools if {tool.call, tool.result, tool.end} <= special.keys()]
        self._tools = {special[tool.call]: tool for tool in known}
        self._decoder = self.tokenizer.stream()
        self._held = ""  # text that may be the beginning of a stop string
        self._call: list[int] | None = None  # an open call: its token, then the expression's
        self._ids: list[int] = []  # tokens that no delta has told yet
        self._logprobs: list[Logprob | None] = []

    def record(self, ids: list[int], logprobs: list[Logprob | None]) -> None:
        """Tokens that the next delta tells, one that ends the answer included."""
        self._ids += ids
        self._logprobs += logprobs

    def finish(self, completion: Completion) -> None:
        """Adds the last delta."""
        self._tell(completion=completion)

    def push(self, id: int) -> list[int]:
        """Takes the next token; returns the ids to force after it (a tool's answer), usually none."""
        special = self.tokenizer.special
        if id in self._tools:
            self.flush()
            self._call = None if self.stopped else [id]
        elif self._call is None:
            self._write(self._decoder.push(id))
        else:
            tool = self._tools[self._call[0]]
            if id == special[tool.result]:
                expression = self.tokenizer.decode(self._call[1:])
                answer = tool.function(expression)
                self._call = None
                part = calculator_part(expression, answer)
                self.parts.append(part)
                self._tell(answer, part)
                return [*self.tokenizer.encode(answer), special[tool.end]]
            self._call.append(id)
            if id == special[tool.end]:
                self.flush()  # a call that was closed without being asked for its result stays as text
        return []

    def flush(self) -> None:
        """Shows what is held back: at the end of the answer, or where a tool call begins."""
        opened, self._call = self._call, None
        self._write(self.tokenizer.decode(opened) if opened else self._decoder.flush())
        self._show(self._held)
        self._held = ""

    def take(self) -> list[Delta]:
        """The deltas since the last call."""
        new, self.new = self.new, []
        return new

    def _write(self, text: str) -> None:
        if self.stopped:
            return
        self._held += text
        found = [at for s in self.stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            self._show(self._held[: min(found)])
            self._held = ""
            return
        keep = max((_overlap(self._held, s) for s in self.stop), default=0)
        self._show(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]

    def _show(self, text: str) -> None:
        if not text:
            return
        if self.parts and self.parts[-1]["type"] == "text":
            self.parts[-1] = text_part(self.parts[-1]["text"] + text)
        else:
            self.parts.append(text_part(text))
        self._tell(text)

    def _tell(self, text: str = "", part: Part | None = None, completion: Completion | None = None) -> None:
        self.new.append(Delta(text, part, completion, self._ids, self._logprobs))
        self._ids, self._logprobs = [], []


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop` (not all of it)."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
