"""Tools that the caller runs: how the model is told of them, and its calls read out of its text as they are written.

A call is `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form in which Hermes and Qwen models are trained.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

CALL_BEGIN, CALL_END = "<tool_call>", "</tool_call>"
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')


@dataclass(frozen=True)
class Tool:
    """A function that the model may ask the caller to run."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON Schema of its arguments."""

    def described(self) -> dict[str, Any]:
        """As a model is told of it."""
        return {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class ToolCall:
    """A call that was written earlier in the conversation; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolCallDelta:
    """What is new in a call. The first delta of a call has its id and name; the arguments of all, joined, are JSON text."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


def call_text(call: ToolCall) -> str:
    """A call as the model writes it."""
    return f'{CALL_BEGIN}\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}\n{CALL_END}'


def instructions(tools: Sequence[Tool]) -> str:
    """What a model whose template knows no tools is told of them."""
    lines = [json.dumps(tool.described(), ensure_ascii=False) for tool in tools]
    return "\n".join(
        [
            "You can call these functions, one JSON object a line:",
            *lines,
            f'To call one, write {CALL_BEGIN}{{"name": "...", "arguments": {{...}}}}{CALL_END} and nothing after it: '
            "its result comes in the next message.",
        ]
    )


def forced_schema(tools: Sequence[Tool]) -> str:
    """The JSON Schema of one call to one of `tools`, as text."""
    forms = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"type": "object", **tool.parameters}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return json.dumps(forms[0] if len(forms) == 1 else {"anyOf": forms})


@dataclass
class ToolParser:
    """Splits an answer's text, as it comes, into text to show and calls. What is no whole call stays text.

    inside: the answer begins inside a call (its opening tag is the prompt's end).
    """

    inside: bool = False
    calls: int = 0
    """How many calls have begun."""
    _state: Literal["text", "head", "arguments", "tail"] = "text"
    _held: str = ""
    _depth: int = 0
    _quoted: bool = False
    _escaped: bool = False

    def __post_init__(self) -> None:
        if self.inside:
            self._state = "head"

    def push(self, text: str) -> list[str | ToolCallDelta]:
        """What `text` completes."""
        self._held += text
        new: list[str | ToolCallDelta] = []
        while self._advance(new):
            pass
        return new

    def flush(self) -> list[str | ToolCallDelta]:
        """What is still held back, at the end of the answer."""
        held, self._held = self._held, ""
        if self._state == "text":
            return [held] if held and not (self.calls and held.isspace()) else []
        return self._whole(held, CALL_BEGIN + held) if self._state == "head" else []

    def _advance(self, new: list[str | ToolCallDelta]) -> bool:
        """Moves on by one state where that is possible."""
        match self._state:
            case "text":
                return self._text(new)
            case "head":
                return self._head(new)
            case "arguments":
                return self._arguments(new)
            case "tail":
                return self._tail()

    def _text(self, new: list[str | ToolCallDelta]) -> bool:
        before, tag, after = self._held.partition(CALL_BEGIN)
        if tag:
            if before.strip():
                new.append(before.rstrip())
            self._state, self._held = "head", after
            return True
        # The beginning of a tag is held back, and so is white space, which belongs to the call that may follow.
        keep = next((n for n in range(len(CALL_BEGIN) - 1, 0, -1) if before.endswith(CALL_BEGIN[:n])), 0)
        shown = before[: len(before) - keep].rstrip()
        if shown:
            new.append(shown)
        self._held = before[len(shown) :]
        return False

    def _head(self, new: list[str | ToolCallDelta]) -> bool:
        if found := _HEAD.match(self._held):
            new.append(ToolCallDelta(self.calls, _call_id(), _name(found[1])))
            self.calls += 1
            self._state, self._held, self._depth = "arguments", self._held[found.end() :], 0
            return True
        before, tag, after = self._held.partition(CALL_END)
        if tag:
            new += self._whole(before, CALL_BEGIN + before + CALL_END)
            self._state, self._held = "text", after
            return True
        return False

    def _arguments(self, new: list[str | ToolCallDelta]) -> bool:
        for at, c in enumerate(self._held):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif c == "\\":
                    self._escaped = True
                elif c == '"':
                    self._quoted = False
            elif c == '"':
                self._quoted = True
            elif c in "{[":
                self._depth += 1
            elif c in "}]":
                self._depth -= 1
                if self._depth == 0:
                    new.append(ToolCallDelta(self.calls - 1, arguments=self._held[: at + 1]))
                    self._state, self._held = "tail", self._held[at + 1 :]
                    return True
        if self._held:
            new.append(ToolCallDelta(self.calls - 1, arguments=self._held))
            self._held = ""
        return False

    def _tail(self) -> bool:
        _, tag, after = self._held.partition(CALL_END)
        if tag:
            self._state, self._held = "text", after
        return bool(tag)

    def _whole(self, raw: str, otherwise: str) -> list[str | ToolCallDelta]:
        """A call that is read at once, as its parts came in another order; else the text that it is."""
        try:
            call = json.loads(raw)
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return [otherwise]
        if not isinstance(name, str):
            return [otherwise]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        self.calls += 1
        return [ToolCallDelta(self.calls - 1, _call_id(), name, text)]


def _name(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted[1:-1]


def _call_id() -> str:
    return "call_" + secrets.token_hex(12)
